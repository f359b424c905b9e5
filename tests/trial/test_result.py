"""What a trial returns, against its own epochs."""

from pathlib import Path

import numpy as np
import pytest

from kd_hpo.config.task import Classification
from kd_hpo.config.weightings import ReplayedMatrices
from kd_hpo.trial.result import TrialResult
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial
from tests.study.helpers import record, result_of

FIRST = ((1.0, 0.0), (0.0, 0.0), (0.0, 0.0))
LATER = ((0.0, 0.0), (0.0, 0.5), (0.5, 0.0))


def test_held_mean_is_over_the_held_epochs_and_not_the_last_matrix(cache: Path) -> None:
    """A replayed trajectory is held throughout: over one epoch of FIRST and three of LATER the mean is a quarter of FIRST and
    three of LATER."""
    result = run_trial(
        digits_trial(weighting=ReplayedMatrices(matrices=(FIRST, LATER, LATER, LATER))), lambda _: None, cache=cache
    )
    assert all(record.held for record in result.records)
    np.testing.assert_allclose(result.last.weights, LATER, atol=1e-6)
    np.testing.assert_allclose(result.held_mean, [[0.25, 0], [0, 0.375], [0.375, 0]], atol=1e-6)


@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "no pairs"])
def test_best_epoch_is_the_earliest_of_the_highest_on_val(cache: Path, pairs: bool) -> None:
    weighting = {"kind": "uniform" if pairs else "none"}
    result = run_trial(digits_trial(weighting=weighting), lambda _: None, cache=cache)
    scores = [record.metrics["val/accuracy"] for record in result.records]
    assert result.best.epoch == 1 + scores.index(max(scores)) and result.last.epoch == 4
    assert bool(result.held_mean) == pairs


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
    goal = Classification.loss if by == "loss" else Classification.goal
    assert goal.merit(better.metrics) > goal.merit(worse.metrics)
    assert goal.merit(better.metrics) == sign * better.metrics[metric]


@pytest.mark.parametrize(
    ("weighting", "updates"), [({"kind": "learned", "every": 4, "hold": 0.5}, 3), ({"kind": "uniform"}, None)]
)
def test_updates_of_lambda_are_counted_where_it_is_learned(
    cache: Path, weighting: dict[str, object], updates: int | None
) -> None:
    result = run_trial(digits_trial(weighting=weighting), lambda _: None, cache=cache)
    assert result.updates == updates  # of 28 steps, 4, 8 and 12 lie between the warm-up and the last half
