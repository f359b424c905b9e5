"""What is refused of a study before it begins, and of one that has begun."""

from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.config.weightings import LearnedWeights
from kd_hpo.errors import ConfigError, StudyError
from kd_hpo.study.run.checks import check_starts, few_updates, refuse_other_settings
from kd_hpo.study.run.driver import run_study
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.trial.parts import Prepared
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

    monkeypatch.setattr("kd_hpo.study.run.driver.load_data", came_so_far)
    StudyFolder.of(study).write_settings(study)
    (StudyFolder.of(study).root / "trials").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_study(study, Console(quiet=True))
