"""Makes Optuna's samplers by the name that a study gives them.

Each is made anew for every suggestion, from the search's seed and the number of the suggestion: what it suggests depends on
them and on the trials in the journal, not on how often the study was interrupted. What a sampler has to remember (NSGA-II its
generations, QMC its place in the sequence), Optuna keeps in the journal, in plain numbers; CMA-ES computes its distribution anew.
"""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from math import floor, log

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from kd_hpo.config.search import CmaEs, GaussianProcess, Nsga2, QuasiRandom, RandomDraws, Sampler, Tpe, startup_trials_of
from kd_hpo.errors import StudyError

Space = Mapping[str, BaseDistribution]
_NEEDS = {"cma-es": "cmaes"}
"""Packages beside Optuna, which are imported when something is suggested."""


def require_sampler(settings: Sampler) -> None:
    """Checks that the package is there that the sampler needs. Raises StudyError where it is missing."""
    package = _NEEDS.get(settings.kind)
    if package and find_spec(package) is None:
        raise StudyError(
            f"search.sampler {settings.kind!r} needs the package {package!r}, which is not installed here; "
            f"pip install {package}, or choose another sampler (--set search.sampler=tpe)"
        )


def sampler_for(settings: Sampler, space: Space, *, trials: int, seed: int, number: int) -> BaseSampler:
    """The sampler of one suggestion.

    space   of all trials of the search, in the order in which they are drawn
    trials  of the search
    seed    of the search
    number  of suggestions before this one
    """
    own_seed = mixed(seed, number)
    match settings:
        case Tpe():
            return TpeOfOneSpace(space, n_startup_trials=_startup(settings, trials), seed=own_seed)
        case RandomDraws():
            return RandomSampler(seed=own_seed)
        case GaussianProcess():
            return GPSampler(seed=own_seed, n_startup_trials=_startup(settings, trials), warn_independent_sampling=False)
        case CmaEs():
            from kd_hpo.study.search.cma import CmaEsFromTrials

            return CmaEsFromTrials(space, startup=settings.startup_trials, population=settings.population, seed=own_seed)
        case QuasiRandom():  # one sequence for all suggestions, so one seed
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return QmcOfOneSpace(space, qmc_type=settings.sequence, scramble=settings.scramble, seed=mixed(seed))
        case Nsga2():
            return NSGAIISampler(seed=own_seed, population_size=settings.population)


def _startup(settings: Tpe | GaussianProcess, trials: int) -> int:
    return settings.startup_trials or startup_trials_of(trials)


def ended_before_it_learns(settings: Sampler, numbers: int, trials: int) -> int | None:
    """Tells after how many ended trials a suggestion is the sampler's own; None for one that learns from no trial.

    numbers  how many numbers are searched
    trials   of the search
    """
    match settings:
        case Tpe() | GaussianProcess():
            return _startup(settings, trials)
        case CmaEs():  # its first generation is drawn
            return settings.startup_trials + (settings.population or 4 + floor(3 * log(max(numbers, 1))))
        case Nsga2():
            return settings.population
        case RandomDraws() | QuasiRandom():
            return None


def learns_nothing(settings: Sampler, method: str, trials: int, numbers: int, at_once: int) -> str:
    """Says that a method's search is random draws but for its first trial, in a line; empty where it is not.

    It is empty, too, where that is meant to be.

    at_once  how many trials run at once: the last one is asked for when as many have not ended
    """
    needed = ended_before_it_learns(settings, numbers, trials)
    ended = trials - min(at_once, trials)
    if trials == 1:
        return f"the search of {method} is one trial, at the settings of the file; raise its number of trials to search anything"
    if needed is None or needed <= ended:
        return ""
    return (
        f"the search of {method} learns nothing: {settings.title} draws at random until {needed} trial{'s' * (needed > 1)} "
        f"{'have' if needed > 1 else 'has'} ended, and {ended} of {trials} have when the last one starts ({at_once} at once); "
        "raise the number of trials, or lower resources.concurrent_trials or what search.sampler waits for"
    )


class TpeOfOneSpace(TPESampler):
    """Optuna's TPE, told the space that all its trials share: it would look for that in every trial, at each suggestion."""

    def __init__(self, space: Space, *, n_startup_trials: int = 10, seed: int) -> None:
        super().__init__(n_startup_trials=n_startup_trials, seed=seed)
        self._of_all = chosen_from(space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {name: self._of_all[name] for name in sorted(self._of_all)}


class QmcOfOneSpace(QMCSampler):
    """Optuna's QMC, told the space: it would draw the first trials at random, until one of them shows what that is."""

    def __init__(self, space: Space, *, qmc_type: str, scramble: bool, seed: int) -> None:
        super().__init__(qmc_type=qmc_type, scramble=scramble, seed=seed)
        self._of_all = chosen_from(space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._of_all)


def chosen_from(space: Space) -> dict[str, BaseDistribution]:
    """The space without what has one value."""
    return {name: distribution for name, distribution in space.items() if not distribution.single()}


def mixed(*numbers: int) -> int:
    """Mixes numbers into a seed, one for each tuple of them."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
