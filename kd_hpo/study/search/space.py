"""Typed ranges of a study file as Ray Tune's: the one place that knows both."""

from typing import Any

from ray import tune

from kd_hpo.config.study import Choice, IntRange, LogUniformRange, Range, UniformRange


def ray_space(space: dict[str, Range]) -> dict[str, Any]:
    """Dotted paths to Ray's domains; the paths stay flat keys, since `.` is no separator for Ray."""
    return {dotted: _domain(chosen) for dotted, chosen in space.items()}


def _domain(chosen: Range) -> Any:
    match chosen:
        case UniformRange(low=low, high=high):
            return tune.uniform(low, high)
        case LogUniformRange(low=low, high=high):
            return tune.loguniform(low, high)
        case IntRange(low=low, high=high):
            return tune.randint(int(low), int(high) + 1)
        case Choice(values=values):
            return tune.choice(list(values))
