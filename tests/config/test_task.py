"""What a study goes by: the task's metric or its loss, by either of its names."""

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from kd_hpo.config.load import read_study
from kd_hpo.config.methods import METHODS
from kd_hpo.config.read import replace_path
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Classification, Goal
from kd_hpo.errors import ConfigError
from tests.conftest import digits_study

DIGITS = Path(__file__).with_name("digits.yaml")


def loaded(*overrides: str) -> StudyConfig:
    return read_study(DIGITS, overrides, methods=METHODS)


@pytest.mark.parametrize(("mode", "best"), [("max", 0.75), ("min", 0.25)])
def test_more_merit_is_better(mode: str, best: float) -> None:
    goal = Goal("error", "max" if mode == "max" else "min")
    assert goal.on("test") == "test/error"
    assert goal.best([0.5, 0.25, 0.75]) == max([0.5, 0.25, 0.75], key=lambda value: goal.merit({"val/error": value})) == best
    assert math.isnan(goal.best([]))


def test_a_search_goes_by_the_metric_or_by_the_loss_of_the_task() -> None:
    assert loaded().goal == loaded("search.by=metric").goal == Classification.goal
    assert loaded("search.by=loss").goal == Classification.loss


def test_a_search_by_agreement_wants_little_of_it_on_unlabelled_images_where_there_are_such() -> None:
    goal = loaded("search.by=agreement").goal
    assert (goal.key, goal.mode) == ("val/agreement", "min")
    assert goal.merit({"val/agreement": 0.5}) < goal.merit({"val/agreement": 0.25, "val/accuracy": 0.0})
    assert loaded("search.by=agreement", "data.unlabelled=extra").goal.key == "unlabelled/agreement"
    assert loaded("search.by=loss", "data.unlabelled=extra").goal.key == "val/loss"


@pytest.mark.parametrize("where", ["search.space", "compare.methods"])
def test_a_search_by_agreement_does_not_choose_its_teacher(where: str) -> None:
    space = "{teacher.training.epochs: {kind: int, low: 1, high: 99}}"
    change = f"search.space={space}" if where == "search.space" else f"compare.methods=[{{name: x, base: kd, space: {space}}}]"
    more = ["compare.tune=1", "search.method=kd", "search.trials=4"]
    assert loaded(change, *more)
    with pytest.raises(ConfigError, match="easiest to agree with"):
        loaded(change, *more, "search.by=agreement")
    assert loaded("search.space={teacher.cache_gb: {kind: uniform, low: 1, high: 99}}", "search.by=agreement")


def test_the_metrics_own_name_is_another_name_of_it(tmp_path: Path) -> None:
    assert loaded("search.by=accuracy") == loaded("search.by=metric") == loaded()
    assert loaded("search.by=accuracy", "task.kind=classification") == loaded()
    assert loaded("search={by: accuracy}").search.by == "metric"
    assert replace_path(loaded("search.by=loss"), "search.by", "accuracy") == loaded()
    kept = digits_study(tmp_path).model_dump_json().replace('"by":"metric"', '"by":"accuracy"')
    assert '"accuracy"' in kept and StudyConfig.model_validate_json(kept) == digits_study(tmp_path)


def test_a_metric_of_another_task_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.by .*metric"):
        loaded("search.by=error")
    monkeypatch.setattr(Classification, "goal", Goal("error", "min"))
    assert digits_study(tmp_path, search={"by": "error"}).goal == Goal("error", "min")
    with pytest.raises(ValidationError, match="metric"):
        digits_study(tmp_path, search={"by": "accuracy"})
