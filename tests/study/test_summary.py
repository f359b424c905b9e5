"""The table and the matrix at the end of a study, from a folder made by hand."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.trial import NoPairs
from kd_hpo.study.folder import State, StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.study.summary import Spread, Summary, render, summarise
from kd_hpo.trial.prepare import Prepared
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import record, result_of

LEFT = ((0.5, 0.0), (0.25, 0.0), (0.25, 0.0))
RIGHT = ((0.0, 0.5), (0.0, 0.25), (0.0, 0.25))


def add(study: StudyConfig, method: str, seed: int, accuracies: list[float], state: State = "completed") -> None:
    folder, learned = StudyFolder.of(study), method.startswith("learned")
    spec = TrialSpec(id=f"{method}-s{seed}", kind="compare", method=method, seed=seed)
    folder.write_status(TrialStatus(spec=spec, state=state))
    weights = (LEFT if seed == 0 else RIGHT) if learned else ()
    records = [record(epoch, accuracy, weights) for epoch, accuracy in enumerate(accuracies, 1)]
    folder.write_records(spec.id, records)
    if state == "completed":
        result = result_of(records, digits_trial() if learned else digits_trial(weighting=NoPairs()))
        (folder.trial(spec.id) / "result.json").write_text(result.model_dump_json())
        folder.write_test_scores(spec.id, TestScores(last=accuracies[-1] - 0.1, best=max(accuracies) - 0.1))


def shown(summary: Summary) -> str:
    file = StringIO()
    Console(file=file, width=160, color_system=None).print(render(summary))
    return file.getvalue()


@pytest.fixture
def summary(tmp_path: Path, prepared: Prepared) -> Summary:
    methods = ["ce", {"name": "mine", "base": "kd"}, "learned"]
    study = digits_study(tmp_path, compare={"methods": methods, "seeds": 2})
    for seed in (0, 1):
        add(study, "ce", seed, [0.7, 0.5 + seed / 10])
        add(study, "learned", seed, [0.4, 0.75])
    add(study, "mine", 0, [0.5])
    add(study, "mine", 1, [0.2], state="failed")
    return summarise(study, StudyFolder.of(study), prepared, "7")


@pytest.mark.parametrize(
    ("values", "text"), [((0.5,), "0.5000"), ((0.5, 0.75), "0.6250 ±.1768"), ((0.25, 0.25, 0.25), "0.2500 ±.0000")]
)
def test_spread_tells_the_deviation_of_a_sample(values: tuple[float, ...], text: str) -> None:
    assert str(Spread(values)) == text


def test_table_for_machines(summary: Summary, prepared: Prepared) -> None:
    teacher, ce, mine, learned = summary.table()
    assert teacher["val_mean"] == prepared.teacher.val.accuracy
    assert (ce["method"], ce["title"], ce["failed"]) == ("ce", "student alone", 0)
    assert ce["val_mean"] == pytest.approx(0.55)  # after the last epoch, not the best one
    assert ce["val_sd"] == pytest.approx(0.1 / 2**0.5)
    assert ce["test_mean"] == pytest.approx(0.45) and ce["test_best_mean"] == pytest.approx(0.6)
    assert mine == {
        "method": "mine",
        "title": "mine",
        "failed": 1,
        "val_mean": 0.5,
        "test_mean": pytest.approx(0.4),
        "test_best_mean": pytest.approx(0.4),
    }
    assert learned["val_sd"] == 0


def test_matrix_is_the_mean_over_seeds_with_the_names_of_its_layers(summary: Summary) -> None:
    assert summary.matrix == [[0.25, 0.25], [0.125, 0.125], [0.125, 0.125]]
    assert summary.matrix_method == "learned"
    text = shown(summary)
    lines = text[text.index("Learned lambda (learned)") :].splitlines()[1:]
    cells = [re.findall(r"[\w.]+", line) for line in lines]
    assert [row for row in cells if row] == [
        ["conv1", "fc"],
        ["conv1", "0.250", "0.250"],
        ["conv2", "0.125", "0.125"],
        ["fc", "0.125", "0.125"],
    ]


def test_what_is_shown_names_methods_seeds_and_failures(summary: Summary) -> None:
    text = shown(summary)
    assert "over 2 seeds" in text
    (ce,) = [line for line in text.splitlines() if "student alone" in line]
    assert "0.5500 ±.0707" in ce and "0.4500 ±.0707" in ce and "0.6000 ±.0000" in ce
    (mine,) = [line for line in text.splitlines() if "mine (1 failed)" in line]
    assert "0.5000" in mine and "±" not in mine
    (teacher,) = [line for line in text.splitlines() if "teacher " in line and "row" not in line]
    assert " - " in teacher  # it has no best epoch


def test_study_without_learned_weights_shows_no_matrix(tmp_path: Path, prepared: Prepared) -> None:
    study = digits_study(tmp_path, compare={"methods": ["ce", "learned"], "seeds": 1})
    add(study, "ce", 0, [0.5])
    add(study, "learned", 0, [0.5], state="failed")
    summary = summarise(study, StudyFolder.of(study), prepared, "7")
    assert (summary.matrix, summary.teacher_layers, summary.student_layers) == (None, (), ())
    assert "Learned lambda" not in shown(summary)
    assert summary.table()[2] == {"method": "learned", "title": summary.rows[2].title, "failed": 1}
    assert "seeds" not in shown(summary)
