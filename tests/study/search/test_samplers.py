"""Optuna's samplers by name: what each suggestion depends on."""

from functools import partial
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from kd_hpo.config.search import CmaEs, GaussianProcess, Nsga2, QuasiRandom, RandomDraws, Sampler, Tpe
from kd_hpo.errors import StudyError
from kd_hpo.study.search import samplers
from kd_hpo.study.search.samplers import TpeOfOneSpace, require_sampler, sampler_for
from kd_hpo.study.search.space import distributions
from tests.study.search.searches import SPACE

ONE_VALUE = CategoricalDistribution([1])


def suggestions(settings: Sampler, trials: int, *, seed: int = 0) -> list[dict[str, Any]]:
    space = distributions(SPACE) | {"fixed": ONE_VALUE}
    study = optuna.create_study(direction="maximize")
    for number in range(trials):
        study.sampler = sampler_for(settings, space, seed=seed, number=number)
        trial = study.ask(fixed_distributions=space)
        study.tell(trial, -abs(trial.params["kd.weight"] - 1.2))
    return [trial.params for trial in study.trials]


def test_the_space_is_told_to_optuna_and_changes_no_suggestion() -> None:
    """Past the random first ten, with trials of every end, and a setting without a choice."""
    space = distributions(SPACE) | {"fixed": ONE_VALUE}
    given: list[list[dict[str, Any]]] = []
    for sampler in (TPESampler, partial(TpeOfOneSpace, space)):
        study = optuna.create_study(direction="maximize")
        for number in range(30):
            study.sampler = sampler(seed=number)
            trial = study.ask(fixed_distributions=space)
            if number % 5 == 3:
                study.tell(trial, state=TrialState.FAIL)
            elif number % 5 == 4:
                trial.report(trial.params["kd.weight"], 1)
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, trial.params["kd.weight"])
        given.append([trial.params for trial in study.trials])
    assert given[0] == given[1]


@pytest.mark.parametrize(
    ("settings", "random"),
    [
        (Tpe(startup_trials=3), 3),
        (GaussianProcess(startup_trials=3), 3),
        (CmaEs(startup_trials=2), 2),
        (Nsga2(population=3), 3),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_sampler_that_learns_draws_at_random_for_as_long_as_it_is_told(settings: Sampler, random: int) -> None:
    """And no longer; RandomDraws with the same seed gives the same first ones."""
    learned, drawn = suggestions(settings, random + 1), suggestions(RandomDraws(), random + 1)
    assert learned[:random] == drawn[:random]
    assert learned[random] != drawn[random]


def test_a_sequence_fills_the_space_evenly_from_its_start() -> None:
    """Of 16 points of Sobol's sequence, each sixteenth of a range has one: the net property, which draws do not have."""
    for scramble in (True, False):
        weights = [each["kd.weight"] for each in suggestions(QuasiRandom(scramble=scramble), 16)]
        assert sorted(int((weight - 0.5) / 1.5 * 16) for weight in weights) == list(range(16))


def test_seeds_give_other_suggestions_but_of_a_sequence_that_is_not_scrambled() -> None:
    for settings in (Tpe(), RandomDraws(), QuasiRandom()):
        assert suggestions(settings, 2, seed=1) != suggestions(settings, 2, seed=2)
    plain = QuasiRandom(sequence="halton", scramble=False)
    assert suggestions(plain, 2, seed=1) == suggestions(plain, 2, seed=2)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_sampler(CmaEs())
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"'cma-es' needs the package 'cmaes'.*pip install cmaes"):
        require_sampler(CmaEs())
    require_sampler(Tpe())
