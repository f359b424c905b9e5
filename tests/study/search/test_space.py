"""Ranges of a study file as Optuna's distributions."""

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kd_hpo.config.study import Choice, IntRange, LogUniformRange, Range, UniformRange, gives
from kd_hpo.study.search.space import distributions, suggest
from tests.study.search.searches import SPACE


def test_each_kind_of_range() -> None:
    assert distributions(SPACE) == {
        "training.optimizer.lr": FloatDistribution(0.01, 0.2, log=True),
        "kd.weight": FloatDistribution(0.5, 2.0),
        "pairs.balance.every": IntDistribution(1, 30),
        "pairs.logits": CategoricalDistribution(("inside", "outside")),
    }
    assert list(distributions(SPACE)) == list(SPACE)


@pytest.mark.parametrize(
    ("chosen", "inside", "outside"),
    [
        (UniformRange(low=0.5, high=2), [0.5, 1, 2.0], [0.49, 2.1, None, "1", True, [1]]),
        (LogUniformRange(low=0.5, high=2), [0.5, 2], [0.0, -1.0]),
        (IntRange(low=1, high=3), [1, 3, 2.0], [0, 4, 1.5, None]),
        (Choice(values=("a", None, 3)), ["a", None, 3], ["b", 4]),
    ],
    ids=["uniform", "loguniform", "int", "choice"],
)
def test_what_a_range_gives(chosen: Range, inside: list[Any], outside: list[Any]) -> None:
    assert [value for value in [*inside, *outside] if gives(chosen, value)] == inside


def test_a_suggestion_lies_in_the_distribution_and_stays() -> None:
    trial = optuna.create_study().ask()
    for name, distribution in distributions(SPACE).items():
        value = suggest(trial, name, distribution)
        assert gives(SPACE[name], value)
        assert suggest(trial, name, distribution) == value
    assert trial.distributions == distributions(SPACE)
