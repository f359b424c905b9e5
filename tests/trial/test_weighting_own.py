"""Weightings and directions of one's own, in a whole trial."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_hpo.core.directions import GradientFlow
from kd_hpo.core.learned import Learned
from kd_hpo.core.simplex import SIMPLEX_UPDATES
from kd_hpo.core.weightings import Compared, Constant
from kd_hpo.errors import ConfigError
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.result import TrialResult
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial

WHEN = {"every": 2, "warmup": 0.1, "hold": 0.3}
START = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


def mirror(served: Tensor, start: Tensor | None = None, step: float = 0.03) -> Learned:
    """What `kind: learned` makes without evidence."""
    return Learned(served, SIMPLEX_UPDATES["mirror_descent"], step=step, average=0.9, mix=0.01, start=start)


def still(served: Tensor) -> Constant:
    return Constant(served)


class LastLayer(Constant):
    """Weights of each example, trained by the training loss: how much of its weight goes to the last student layer."""

    reads_features = True

    def __init__(self, served: Tensor) -> None:
        super().__init__(served)
        self.share = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ...]] = []

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        if features is None:
            return super().weights(epoch)
        self.seen = [tuple(f.shape) for f in (*features.student, *features.teacher)]
        T, S = self._weights.shape
        columns = torch.stack([torch.sigmoid(-self.share), torch.sigmoid(self.share)]) / T
        return columns.expand(len(features.student[0]), T, S)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.share], "lr": 0.1}]


MADE: list[LastLayer] = []


def last_layer(served: Tensor) -> LastLayer:
    MADE.append(LastLayer(served))
    return MADE[-1]


def own(name: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "callable", "callable": f"{__name__}:{name}", **settings}


def told(result: TrialResult) -> list[Any]:
    return [[record.metrics, record.weights, record.held] for record in result.records]


@pytest.mark.parametrize("start", [None, START])
def test_learned_weighting_of_ones_own_moves_as_the_built_in_one(
    cache: Path, prepared: Prepared, start: list[list[float]] | None
) -> None:
    built_in = {"kind": "learned", "evidence": False, "step": 0.1, "start": start, **WHEN}
    of_ones_own = own("mirror", options={"step": 0.1}, start=start, **WHEN)
    one, other = (
        run_trial(digits_trial(weighting=w), lambda _: None, cache=cache, prepared=prepared) for w in (built_in, of_ones_own)
    )
    assert one.records[0].weights != one.records[-1].weights
    assert told(one) == told(other)


def test_direction_of_ones_own_stands_in_for_the_built_in_one(cache: Path, prepared: Prepared) -> None:
    direction = {"kind": "callable", "callable": f"{GradientFlow.__module__}:{GradientFlow.__name__}"}
    one, other = (
        run_trial(digits_trial(weighting={"kind": "learned", **WHEN, **more}), lambda _: None, cache=cache, prepared=prepared)
        for more in ({}, {"direction": direction})
    )
    assert told(one) == told(other)


def test_weighting_that_reads_features_is_trained_by_the_training_loss(cache: Path, prepared: Prepared) -> None:
    config = digits_trial(weighting=own("last_layer", moves=False), pairs={"balance": {"kind": "none"}, "batch_share": 0.5})
    run_trial(config, lambda _: None, cache=cache, prepared=prepared)
    made = MADE[-1]
    assert abs(float(made.share.detach())) > 0.1
    assert [shape[0] for shape in made.seen] == [16] * 5  # half a batch of each of the two and three layers


@pytest.mark.parametrize(
    ("weighting", "wrong"),
    [
        (own("mirror", moves=False), "weighting.moves is false"),
        (own("still"), "weighting.moves is true"),
        ({"kind": "callable", "callable": "builtins:sum"}, "returned a Tensor"),
        ({"kind": "callable", "callable": f"{__name__}:nothing"}, "no callable 'nothing'"),
        ({"kind": "learned", "direction": {"kind": "callable", "callable": "builtins:dict"}}, "returned a dict"),
    ],
)
def test_what_is_no_weighting_or_direction_is_refused_by_name(
    cache: Path, prepared: Prepared, weighting: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        run_trial(digits_trial(weighting=weighting), lambda _: None, cache=cache, prepared=prepared)


def test_weights_that_do_not_move_need_no_learning_settings(cache: Path, prepared: Prepared) -> None:
    uniform, of_ones_own = (
        run_trial(digits_trial(weighting=w), lambda _: None, cache=cache, prepared=prepared)
        for w in ({"kind": "uniform"}, own("still", moves=False))
    )
    assert told(uniform) == told(of_ones_own)
