"""CMA-ES as a sampler of Optuna's that keeps nothing: its distribution is computed anew from the trials that have completed.

Optuna's own keeps its distribution as a pickle in the journal, which runs whatever code stands there when it is read.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from cmaes import CMA
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

Number = FloatDistribution | IntDistribution


class CmaEsFromTrials(BaseSampler):
    """A CMA-ES that suggests what Optuna's does with the same seed, where one trial ends before the next is asked for.

    The first `startup` completed trials count as drawn at random; of those after them, in the order of their numbers, each
    `population` are a generation.

    space       of all trials; what is no number, or has one value, is drawn at random
    population  None: 4 + 3 ln(number of ranges)
    """

    def __init__(self, space: Mapping[str, BaseDistribution], *, startup: int, population: int | None, seed: int) -> None:
        self._ranges = {name: d for name, d in sorted(space.items()) if isinstance(d, Number) and not d.single()}
        self._startup, self._population, self._seed = startup, population, seed
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._ranges)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not self._ranges or len(completed) < self._startup:
            return {}
        sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
        random = np.random.RandomState(self._seed)
        told = [(self._to_unit(each.params), sign * float(each.values[0])) for each in completed[self._startup :]]
        optimizer = self._optimizer()
        size = optimizer.population_size
        for start in range(0, len(told) - size + 1, size):
            optimizer.tell(told[start : start + size])
        if len(told) <= size:  # Optuna's draws a seed for a distribution that it does not find in the journal
            random.randint(1, 2**31 - 2)
        optimizer.reseed_rng(int(random.randint(1, 2**16)) + trial.number)
        return {name: from_unit(x, d) for (name, d), x in zip(self._ranges.items(), optimizer.ask(), strict=True)}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        return self._random.sample_independent(study, trial, name, distribution)

    def _optimizer(self) -> CMA:
        """Before it has seen a trial: in the middle of the unit cube, with a sixth of its side as standard deviation."""
        size = len(self._ranges)
        bounds = np.tile([0.0, 1.0], (size, 1))
        return CMA(np.full(size, 0.5), 1 / 6, bounds, n_max_resampling=10 * size, population_size=self._population)

    def _to_unit(self, params: Mapping[str, Any]) -> np.ndarray:
        return np.array([to_unit(params[name], d) for name, d in self._ranges.items()])


def to_unit(value: float, of: Number) -> float:
    """Maps a value into [0, 1]: whole numbers to the middle of equal parts, those with `log` by their logarithm."""
    low, high = _ends(of)
    return ((math.log(value) if of.log else float(value)) - low) / (high - low)


def from_unit(x: float, of: Number) -> float:
    low, high = _ends(of)
    value = low + float(x) * (high - low)
    value = math.exp(value) if of.log else value
    if isinstance(of, FloatDistribution):
        return min(max(value, of.low), float(np.nextafter(of.high, of.low)))
    return min(max(math.floor(value + 0.5), of.low), of.high)


def _ends(of: Number) -> tuple[float, float]:
    half = 0.5 if isinstance(of, IntDistribution) else 0.0
    low, high = of.low - half, of.high + half
    return (math.log(low), math.log(high)) if of.log else (low, high)
