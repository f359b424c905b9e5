"""Optuna's samplers by name: what each suggestion depends on."""

from functools import partial
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from kd_hpo.config.search import CmaEs, GaussianProcess, Nsga2, QuasiRandom, RandomDraws, Sampler, Tpe
from kd_hpo.config.task import Classification
from kd_hpo.errors import StudyError
from kd_hpo.study.search import samplers
from kd_hpo.study.search.samplers import TpeOfOneSpace, learns_nothing, require_sampler, sampler_for
from kd_hpo.study.search.space import distributions
from tests.study.search.searches import SPACE

ONE_VALUE = CategoricalDistribution([1])


def suggestions(settings: Sampler, trials: int, *, seed: int = 0) -> list[dict[str, Any]]:
    space = distributions(SPACE) | {"fixed": ONE_VALUE}
    study = optuna.create_study(direction="maximize")
    for number in range(trials):
        study.sampler = sampler_for(settings, space, trials=trials, seed=seed, number=number)
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


@pytest.mark.parametrize(("trials", "random"), [(3, 1), (8, 3), (40, 10)])
def test_a_sampler_that_is_not_told_draws_a_third_of_its_trials_at_random_and_ten_at_most(trials: int, random: int) -> None:
    learned, drawn = suggestions(Tpe(), trials)[: random + 1], suggestions(RandomDraws(), random + 1)
    assert learned[:random] == drawn[:random]
    assert learned[random] != drawn[random]


@pytest.mark.parametrize(
    ("settings", "trials", "at_once", "words"),
    [
        (Tpe(), 8, 1, ""),
        (Tpe(), 8, 5, ""),
        (Tpe(), 8, 6, "TPE draws at random until 3 trials have ended, and 2 of 8 have"),
        (Tpe(startup_trials=10), 8, 1, "until 10 trials have ended, and 7 of 8 have"),
        (Tpe(), 1, 1, "the search of kd is one trial, at the settings of the file"),
        (Nsga2(), 50, 1, "until 50 trials have ended, and 49 of 50"),
        (CmaEs(), 9, 1, "until 9 trials have ended"),  # one, and a generation of 4 + 3 ln 4
        (CmaEs(), 10, 1, ""),
        (RandomDraws(), 2, 2, ""),
        (QuasiRandom(), 2, 2, ""),
    ],
)
def test_a_search_whose_sampler_never_leaves_its_start_is_told(settings: Sampler, trials: int, at_once: int, words: str) -> None:
    told = learns_nothing(settings, "kd", trials, 4, at_once)
    assert words in told if words else not told


@pytest.mark.parametrize(
    "settings",
    [Tpe(startup_trials=3), GaussianProcess(startup_trials=3), CmaEs(population=4), Nsga2(population=4)],
    ids=lambda value: value.kind,
)
@pytest.mark.filterwarnings("ignore:.*inf:RuntimeWarning")
def test_samplers_stand_a_trial_with_the_worst_value_there_is(settings: Sampler) -> None:
    space = distributions(SPACE)
    study = optuna.create_study(direction="maximize")
    for number in range(9 if settings.kind != "gp" else 5):
        study.sampler = sampler_for(settings, space, trials=9, seed=0, number=number)
        trial = study.ask(fixed_distributions=space)
        study.tell(trial, Classification.goal.worst if number % 3 == 1 else trial.params["kd.weight"])
        assert 0.5 <= trial.params["kd.weight"] <= 2.0


def test_tpe_learns_from_the_worst_value_where_a_failure_teaches_it_nothing() -> None:
    """Beyond 1.2 every trial diverges, and the best ones stand at that cliff."""
    space, fell = distributions({"kd.weight": SPACE["kd.weight"]}), dict[str, int]()
    for told in ("failed", "worst"):
        study, fell[told] = optuna.create_study(direction="maximize"), 0
        for number in range(40):
            study.sampler = sampler_for(Tpe(), space, trials=40, seed=0, number=number)
            trial = study.ask(fixed_distributions=space)
            over = trial.params["kd.weight"] > 1.2
            fell[told] += over and number >= 15
            if over and told == "failed":
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, Classification.goal.worst if over else trial.params["kd.weight"])
    assert fell["worst"] < 0.7 * fell["failed"]


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
