"""The default ranges of a search, which lie around the study's own values."""

from typing import Any

import pytest

from kd_hpo.config.study import DEFAULT_SPACE, LogUniformRange, Range, default_space
from tests.conftest import digits_trial

VARIANCE = "pairs.loss.variance"


def ends(chosen: Range) -> tuple[float, float]:
    assert isinstance(chosen, LogUniformRange)
    return chosen.low, chosen.high


def gaussian(**variance: Any) -> dict[str, Any]:
    return {"pairs": {"loss": {"kind": "gaussian", "variance": {"kind": "learned", **variance}}}}


def test_settings_as_they_come_have_the_default_ranges() -> None:
    assert default_space(digits_trial()) == DEFAULT_SPACE


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_learning_rate_is_searched_around_that_of_the_file_whatever_its_optimiser(kind: str) -> None:
    training = {"epochs": 4, "batch_size": 32, "optimizer": {"kind": kind, "lr": 0.003}}
    assert ends(default_space(digits_trial(training=training))["training.optimizer.lr"]) == pytest.approx((0.0006, 0.012))


def test_every_default_range_holds_the_value_that_it_lies_around() -> None:
    changed: dict[str, Any] = {
        "training": {"epochs": 4, "optimizer": {"kind": "adam", "lr": 2.0}},
        "kd": {"weight": 30.0, "temperature": 1.0},
        "weighting": {"kind": "learned", "step": 2.0},
        "pairs": gaussian(start=40.0, floor=1e-6)["pairs"] | {"strength": 1e-3, "regressor_lr": 0.7},
    }
    values = {"training.optimizer.lr": 2, "kd.weight": 30, "kd.temperature": 1, "weighting.step": 2, "pairs.strength": 1e-3}
    values |= {"pairs.regressor_lr": 0.7, f"{VARIANCE}.start": 40, f"{VARIANCE}.floor": 1e-6}
    space = default_space(digits_trial(**changed))
    assert space.keys() == values.keys() == DEFAULT_SPACE.keys()
    for path, value in values.items():
        low, high = ends(space[path])
        assert low < value < high
        assert high / low == pytest.approx(ends(DEFAULT_SPACE[path])[1] / ends(DEFAULT_SPACE[path])[0])


def test_a_variance_is_never_searched_below_its_floor() -> None:
    space = default_space(digits_trial(**gaussian(start=0.05, floor=0.04)))
    start, floor = ends(space[f"{VARIANCE}.start"]), ends(space[f"{VARIANCE}.floor"])
    assert floor[0] < 0.04 < floor[1] <= start[0] < 0.05 < start[1]


def test_what_the_trial_has_not_or_has_switched_off_is_not_searched() -> None:
    off = digits_trial(kd={"weight": 0}, pairs={"loss": {"kind": "hint"}}, weighting={"kind": "uniform"})
    left_out = {"kd.weight", "weighting.step", f"{VARIANCE}.start", f"{VARIANCE}.floor"}
    assert default_space(off).keys() == DEFAULT_SPACE.keys() - left_out
    fixed = {"pairs": {"loss": {"kind": "gaussian", "variance": {"kind": "fixed", "value": 1.0}}}}
    assert default_space(digits_trial(**fixed)).keys() == DEFAULT_SPACE.keys() - {f"{VARIANCE}.start", f"{VARIANCE}.floor"}
