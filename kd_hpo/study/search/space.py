"""Turns typed ranges of a study file into Optuna's distributions: the one place that knows both."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from kd_hpo.config.study import Choice, IntRange, LogUniformRange, Range, UniformRange


def distributions(space: Mapping[str, Range]) -> dict[str, BaseDistribution]:
    """The distribution of each dotted path, in the order of the space: the order in which Optuna draws."""
    return {dotted: _distribution(chosen) for dotted, chosen in space.items()}


def _distribution(chosen: Range) -> BaseDistribution:
    match chosen:
        case UniformRange(low=low, high=high):
            return FloatDistribution(low, high)
        case LogUniformRange(low=low, high=high):
            return FloatDistribution(low, high, log=True)
        case IntRange(low=low, high=high):
            return IntDistribution(int(low), int(high))
        case Choice(values=values):
            return CategoricalDistribution(values)


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """Gives the value that the journal has for the trial, or else what the study's sampler chooses.

    Raises TypeError for a distribution that no range has.
    """
    match distribution:
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case IntDistribution(low=low, high=high):
            return trial.suggest_int(name, low, high)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"{name} has the distribution {distribution}")
