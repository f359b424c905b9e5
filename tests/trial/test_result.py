"""What a trial returns: the best epoch, and JSON that comes back."""

import pytest

from kd_hpo.trial.result import GOALS, TrialResult
from tests.study.helpers import record, result_of


def test_the_best_epoch_is_the_earliest_of_the_highest() -> None:
    result = result_of([record(1, 0.5), record(2, 0.75), record(3, 0.75), record(4, 0.6)])
    assert (result.best.epoch, result.last.epoch) == (2, 4)


def test_json_comes_back() -> None:
    result = result_of([record(1, 0.5), record(2, 1 / 3)])
    assert TrialResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(("by", "metric", "sign"), [("accuracy", "val/accuracy", 1), ("loss", "val/loss", -1)])
def test_more_merit_is_better_whatever_is_measured(by: str, metric: str, sign: int) -> None:
    worse, better = record(1, 0.5), record(2, 0.75)
    worse = worse.replace(metrics={"val/accuracy": 0.5, "val/loss": 2.0})
    better = better.replace(metrics={"val/accuracy": 0.75, "val/loss": 1.0})
    goal = GOALS[by]
    assert goal.merit(better) > goal.merit(worse)
    assert goal.merit(better) == sign * better.metrics[metric]
