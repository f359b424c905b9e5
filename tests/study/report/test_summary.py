"""What a person reads at the end of a study, from a folder made by hand."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.report.sentences import whose
from kd_hpo.study.report.summary import Summary, render, render_learned
from kd_hpo.study.results.comparison import compared
from kd_hpo.study.results.final_scores import shared_scores
from kd_hpo.study.results.standing import Learned, learned_weights
from kd_hpo.study.store.folder import StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.result import LayerRecord
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import LEARNED, record, result_of
from tests.study.results.test_comparison import add

LEFT = ((0.5, 0.0), (0.25, 0.0), (0.25, 0.0))
RIGHT = ((0.0, 0.5), (0.0, 0.25), (0.0, 0.25))


def add_learned(study: StudyConfig, seed: int, matrix: tuple[tuple[float, ...], ...]) -> None:
    folder = StudyFolder.of(study)
    spec = TrialSpec(id=f"{LEARNED}-s{seed}", kind="compare", method=LEARNED, seed=seed)
    folder.write_status(TrialStatus(spec=spec, state="completed"))
    records = [record(1, 0.7, matrix)]
    folder.write_records(spec.id, records)
    (folder.trial(spec.id) / "result.json").write_text(result_of(records, digits_trial()).model_dump_json())
    folder.write_test_scores(spec.id, TestScores(last=0.65, best=0.65))


def summary_of(study: StudyConfig, prepared: Prepared) -> Summary:
    folder = StudyFolder.of(study)
    return Summary(compared(study, folder, shared_scores(prepared), {}), learned_weights(study, folder), "a link")


def shown(summary: Summary, width: int = 160) -> str:
    """As the command line prints it."""
    file = StringIO()
    Console(file=file, width=width, color_system=None, highlight=False, soft_wrap=True).print(
        render(summary.comparison, summary.learned, width)
    )
    return file.getvalue()


@pytest.fixture
def summary(tmp_path: Path, prepared: Prepared) -> Summary:
    methods = ["ce", {"name": "mine", "base": "kd"}, LEARNED]
    study = digits_study(tmp_path, search={"trials": 0}, compare={"methods": methods, "seeds": 2})
    for seed in (0, 1):
        add(study, "ce", seed, [0.7, 0.5 + seed / 10])
        add_learned(study, seed, (LEFT, RIGHT)[seed])
    add(study, "mine", 0, [0.4])
    add(study, "mine", 1, [0.2], state="failed")
    return summary_of(study, prepared)


def test_matrix_is_the_mean_over_seeds_with_the_names_of_its_layers(summary: Summary) -> None:
    assert summary.learned is not None
    assert summary.learned.matrix == ((0.25, 0.25), (0.125, 0.125), (0.125, 0.125))
    assert whose(summary.learned) == f"{LEARNED}, mean of 2 seeds"
    text = shown(summary)
    lines = text[text.index(f"Learned lambda ({LEARNED}, mean of 2 seeds)") :].splitlines()[1:]
    cells = [re.findall(r"[\w.]+", line) for line in lines]
    assert [row for row in cells if row][:4] == [
        ["conv1", "fc"],
        ["conv1", "0.250", "0.250"],
        ["conv2", "0.125", "0.125"],
        ["fc", "0.125", "0.125"],
    ]
    assert "stands 0.17 from equal weights" in lines[-1]  # (2 / 12 + 4 / 24) / 2


def test_wide_table_has_titles_and_what_was_tuned(summary: Summary) -> None:
    lines = shown(summary).splitlines()
    assert lines[0].split() == ["method", "n", "test", "best", "val", "rank", "s", "diff.", "p", "not", "worse", "tuning"]
    ce, mine, learned = (re.split(r"  +", line.rstrip()) for line in lines[2:5])
    assert ce[1:] == ["2", "0.4500 ±.0707", "0.6000 ±.0000", "0.5500 ±.0707", "2.0", "10", "control", "-", "-", "none"]
    assert mine[:3] == ["mine", "1 (1 failed)", "0.3000"]
    assert learned[-4:-1] == ["+0.2000", "0.156", "unknown"]  # differences .25 and .15: t = 4, p = 1 - (2 / pi) atan 4


def test_narrow_table_fits_a_log_of_80_columns(summary: Summary) -> None:
    text = shown(summary, 80)
    lines = text[: text.index("Learned lambda")].splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    ce, mine, learned = (line.split() for line in lines[2:5])
    assert ce == ["ce", "2", "0.450", "±.071", "0.600", "±.000", "0.550", "±.071", "2.0", "10", "control", "-", "-"]
    assert mine[:4] == ["mine", "1", "(1", "failed)"]
    assert learned[-3:] == ["+0.200", "0.156", "?"]


def test_what_is_shown_names_failures_seeds_and_conditions(summary: Summary) -> None:
    text = shown(summary, 80)
    assert "mine: 1 of 2 trials failed: it diverged" in text
    for words in ("Seeds 0 to 1.", "Budget: 28 inner steps", "Splits: train 240 images", "Teacher: val", "best control by mean"):
        assert words in text


def test_study_without_learned_weights_shows_no_matrix(tmp_path: Path, prepared: Prepared) -> None:
    study = digits_study(tmp_path, search={"trials": 0}, compare={"methods": ["ce", LEARNED], "seeds": 1})
    add(study, "ce", 0, [0.5])
    add(study, LEARNED, 0, [0.5], state="failed")
    summary = summary_of(study, prepared)
    assert summary.learned is None
    assert "Learned lambda" not in shown(summary)
    assert f"{LEARNED}: 1 of 1 trials failed: it diverged" in shown(summary)


def wide_matrix(columns: int) -> Learned:
    matrix = (tuple((s + 1) / 1000 for s in range(columns)), (0.9, *[0.0] * (columns - 1)))
    teacher = tuple(LayerRecord(name=name, shape=(1, 1, 1)) for name in ("[red]odd\x1b[2J", "fc"))
    student = tuple(LayerRecord(name=f"layer{s}.conv", shape=(1, 1, 1)) for s in range(columns))
    course = (matrix,)
    return Learned("hetero", ("hetero-s0",), True, teacher, student, matrix, matrix, matrix, (1,), course)


def learned_at(width: int, columns: int) -> str:
    file = StringIO()
    Console(file=file, width=width, color_system=None, highlight=False, soft_wrap=True).print(
        render_learned(wide_matrix(columns), width)
    )
    return file.getvalue()


def test_matrix_that_is_too_wide_has_numbers_for_names_and_then_only_its_largest_weights() -> None:
    assert "layer3.conv" in learned_at(200, 6).splitlines()[2]
    numbered = learned_at(80, 6)
    assert re.findall(r"\d", numbered.splitlines()[3]) == ["1", "2", "3", "4", "5", "6"]
    assert "Columns: 1 layer0.conv, 2 layer1.conv" in numbered
    largest = learned_at(80, 40)
    assert "Of its 2 x 40 weights, the largest are:\n  0.900  fc -> layer0.conv\n  0.040  " in largest
    for text in (numbered, largest):
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_names_of_layers_are_shown_as_they_are_and_do_nothing_to_the_terminal() -> None:
    for columns in (6, 40):
        assert "[red]odd\\x1b[2J" in learned_at(200, columns)
        assert "\x1b" not in learned_at(200, columns)
