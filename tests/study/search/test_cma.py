"""CMA-ES that keeps nothing: what it suggests against Optuna's own, and what of a journal it does not read."""

import pickle
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.trial import TrialState

from kd_hpo.config.search import CmaEs
from kd_hpo.study.search.cma import CmaEsFromTrials, from_unit, to_unit
from kd_hpo.study.search.journal import journal
from kd_hpo.study.search.samplers import sampler_for
from kd_hpo.study.search.space import distributions
from kd_hpo.study.store.folder import StudyFolder
from tests.security.pickles import Evil
from tests.study.search.searches import SPACE, suggested
from tests.study.search.searches import driver as new_driver

RANGES = distributions(SPACE)


def suggestions(sampler: Callable[[int], BaseSampler], direction: str, trials: int) -> list[dict[str, Any]]:
    """One trial after the other, of which every fifth fails and every seventh is stopped."""
    study = optuna.create_study(direction=direction)
    for number in range(trials):
        study.sampler = sampler(number)
        trial = study.ask(fixed_distributions=RANGES)
        given = trial.params
        if number % 5 == 2 or number % 7 == 3:
            study.tell(trial, state=TrialState.FAIL if number % 5 == 2 else TrialState.PRUNED)
        else:
            study.tell(
                trial, (given["kd.weight"] - 1.2) ** 2 + log(given["training.optimizer.lr"]) ** 2 + given["pairs.balance.every"]
            )
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize(("direction", "startup", "population"), [("maximize", 1, None), ("minimize", 3, 5)])
def test_suggests_what_optunas_own_does(direction: str, startup: int, population: int | None) -> None:
    """To rounding: Optuna's keeps one half of its symmetric matrix."""

    def optunas(number: int) -> BaseSampler:
        return CmaEsSampler(seed=number, n_startup_trials=startup, popsize=population, warn_independent_sampling=False)

    def ours(number: int) -> BaseSampler:
        return CmaEsFromTrials(RANGES, startup=startup, population=population, seed=number)

    wanted, given = (suggestions(sampler, direction, 30) for sampler in (optunas, ours))
    for theirs, own in zip(wanted, given, strict=True):
        assert own.pop("pairs.logits") == theirs.pop("pairs.logits")
        assert own == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(
    "of",
    [
        FloatDistribution(0.5, 2.0),
        FloatDistribution(1e-5, 0.2, log=True),
        IntDistribution(1, 30),
        IntDistribution(2, 90, log=True),
    ],
)
def test_values_go_into_the_unit_interval_and_back(of: FloatDistribution | IntDistribution) -> None:
    for value in (of.low, 7, 30) if isinstance(of, IntDistribution) else (of.low, (of.low + of.high) / 2):
        assert from_unit(to_unit(value, of), of) == pytest.approx(value, rel=1e-12)
    ends = from_unit(0.0, of), from_unit(1.0, of)
    assert ends == pytest.approx((of.low, of.high)) and all(of.low <= end <= of.high for end in ends)


def test_a_pickle_in_the_journal_is_not_read(folder: StudyFolder, tmp_path: Path) -> None:
    """As Optuna's own sampler leaves it: resumed, the study goes on without it."""
    ran = tmp_path / "ran"
    storage = journal(folder.optuna)
    study = optuna.create_study(storage=storage, study_name="kd", direction="maximize")
    for value in (0.1, 0.2):
        trial = study.ask(fixed_distributions=RANGES)
        number = storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name("kd"), trial.number)
        storage.set_trial_system_attr(number, "cma:optimizer:0", pickle.dumps(Evil(ran)).hex())
        storage.set_trial_system_attr(number, "cma:generation", 0)
        study.tell(trial, value)
    suggested(new_driver(folder, sampler=CmaEs(population=4)), "0")
    assert not ran.exists()

    study.sampler = CmaEsSampler(warn_independent_sampling=False)
    study.ask(fixed_distributions=RANGES)
    assert ran.exists()  # so the trap is one


def test_what_is_no_number_alone_is_drawn_at_random() -> None:
    space = {"pairs.logits": RANGES["pairs.logits"]}
    study = optuna.create_study()
    for number in range(3):
        study.sampler = sampler_for(CmaEs(), space, trials=3, seed=0, number=number)
        study.tell(study.ask(fixed_distributions=space), 1.0)
    assert len(study.trials) == 3
