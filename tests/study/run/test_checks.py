"""What is refused of a study before it begins, and of one that has begun."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.config.weightings import LearnedWeights
from kd_hpo.errors import ConfigError, StudyError
from kd_hpo.nets.weights import save_weights
from kd_hpo.study.run.checks import check_starts, check_teacher, few_updates, refuse_other_settings
from kd_hpo.study.run.driver import run_study
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.student_alone import Alone
from tests.conftest import digits_study


def test_a_study_that_was_kept_with_the_metrics_own_name_goes_on(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    folder.settings.write_text(folder.settings.read_text().replace('"by": "metric"', '"by": "accuracy"'))
    (folder.root / "trials").mkdir()
    assert '"by": "accuracy"' in folder.settings.read_text() and folder.begun
    refuse_other_settings(study, folder)
    with pytest.raises(StudyError, match="already, with another search"):
        refuse_other_settings(digits_study(tmp_path, search={"by": "loss"}), folder)


@pytest.mark.parametrize(
    ("weighting", "words"),
    [
        ({"every": 4, "hold": 0.5}, ["lambda of hetero is updated 3 times in a trial of 28 steps"]),
        ({"every": 20, "hold": 0.5}, ["lambda of hetero is updated never"]),
        ({"every": 1, "hold": 0.0, "warmup": 0.0}, ["28 times"]),
    ],
)
def test_too_few_updates_of_lambda_are_told_before_the_run(
    tmp_path: Path, prepared: Prepared, weighting: dict[str, object], words: list[str]
) -> None:
    study = digits_study(tmp_path, weighting={"kind": "learned", **weighting}, compare={"methods": ["kd", "hetero"]})
    told = few_updates(study, prepared.splits)
    assert len(told) == len(words) and all(word in line for word, line in zip(words, told, strict=True))
    enough = study.replace(
        training=study.training.replace(epochs=20).model_dump(), weighting=LearnedWeights(every=1).model_dump()
    )
    assert few_updates(enough, prepared.splits) == []


def between(low: float, high: float) -> dict[str, object]:
    return {"kind": "uniform", "low": low, "high": high}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"search": {"space": {"kd.weight": between(2, 3)}}},
            r"^search\.space goes from 2 to 3 for kd\.weight, which is 1 itself",
        ),
        (
            {"compare": {"tune": 1, "methods": [{"name": "x", "base": "kd", "space": {"kd.weight": between(2, 3)}}]}},
            r"^the space of method 'x' goes from 2 to 3 for kd\.weight, which is 1",
        ),
        (
            {
                "compare": {
                    "tune": 1,
                    "methods": [
                        {"name": "x", "base": "at", "set": {"pairs.strength": 9}, "space": {"pairs.strength": between(2, 3)}}
                    ],
                }
            },
            r"^the space of method 'x' goes from 2 to 3 for pairs\.strength, which is 9",
        ),
    ],
)
def test_a_range_that_does_not_hold_where_its_search_starts_is_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_starts(digits_study(tmp_path, **changes))


def test_a_published_number_and_what_is_not_searched_may_lie_outside(tmp_path: Path) -> None:
    weaker = {"name": "x", "base": "at", "space": {"pairs.strength": between(2, 3)}}  # of 3,000
    check_starts(digits_study(tmp_path, compare={"tune": 1, "methods": [weaker]}))
    check_starts(digits_study(tmp_path, search={"trials": 0, "space": {"kd.weight": between(2, 3)}}))


def test_a_study_that_an_earlier_version_has_begun_goes_on_whatever_its_ranges_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = digits_study(tmp_path, search={"space": {"kd.weight": between(2, 3)}})
    with pytest.raises(ConfigError, match="goes from 2 to 3"):
        run_study(study, Console(quiet=True))

    def came_so_far(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kd_hpo.study.run.work.load_data", came_so_far)
    StudyFolder.of(study).write_settings(study)
    (StudyFolder.of(study).root / "trials").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_study(study, Console(quiet=True))


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),
        ({"accept_weak": True}, False),
        ({"training": {"epochs": 1}, "weights": None}, False),  # trained here
        ({"methods": ["ce"]}, False),  # which learns from no teacher
    ],
)
def test_a_given_teacher_that_is_no_better_than_its_student_is_refused_before_a_study(
    tmp_path: Path, prepared: Prepared, changes: dict[str, object], refused: bool
) -> None:
    """Its weights are those of the fixture's teacher, said to know nothing."""
    teacher = digits_study(tmp_path).teacher.model_dump() | {"weights": "given.safetensors"}
    methods = changes.get("methods", ["ce", "kd"])
    study = digits_study(
        tmp_path,
        teacher=teacher | {name: value for name, value in changes.items() if name != "methods"},
        search={"trials": 0},
        compare={"methods": methods},
    )
    poor = replace(prepared, teacher=replace(prepared.teacher, val=replace(prepared.teacher.val, value=0.1)))
    with pytest.raises(ConfigError, match="has little to teach") if refused else nullcontext():
        check_teacher(study, poor, lambda _: None)


def test_the_refusal_is_before_any_trial_and_can_be_lifted_under_the_same_name(
    tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_hpo.trial.student_alone.score_alone", lambda *_: Alone(1.0))
    save_weights(prepared.teacher.network.state_dict(), tmp_path / "given.safetensors")
    teacher = digits_study(tmp_path).teacher.replace(weights=tmp_path / "given.safetensors")
    study = digits_study(tmp_path, teacher=teacher.model_dump(), search={"trials": 0}, compare={"methods": ["kd"]})
    with pytest.raises(ConfigError, match="has little to teach"):
        run_study(study, Console(quiet=True))
    assert not StudyFolder.of(study).begun
    refuse_other_settings(study.replace(teacher=teacher.replace(accept_weak=True).model_dump()), StudyFolder.of(study))
