"""What every sampler and every scheduler owes a study: interrupted anywhere, it goes on as if nothing had happened."""

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from kd_hpo.config.search import (
    Asha,
    CmaEs,
    GaussianProcess,
    Hyperband,
    Median,
    NoScheduler,
    Nsga2,
    Patient,
    Percentile,
    QuasiRandom,
    RandomDraws,
    Sampler,
    Scheduler,
    Tpe,
)
from kd_hpo.study.search.journal import ask_again
from tests.study.search.searches import MadeUpStudy

EPOCHS = 9
TRIALS = defaultdict(lambda: 16, gp=6)
"""A suggestion of the Gaussian process takes seconds."""
SAMPLERS: dict[str, Sampler] = {
    "tpe": Tpe(startup_trials=4),
    "random": RandomDraws(),
    "gp": GaussianProcess(startup_trials=3),
    "cma-es": CmaEs(population=4),
    "sobol": QuasiRandom(),
    "halton": QuasiRandom(sequence="halton", scramble=False),
    "nsga2": Nsga2(population=4),
}
SCHEDULERS: dict[str, Scheduler] = {
    "asha": Asha(grace_epochs=1),
    "hyperband": Hyperband(grace_epochs=1),
    "median": Median(grace_epochs=1, startup_trials=2),
    "percentile": Percentile(grace_epochs=2, kept=0.5, startup_trials=2),
    "patient": Patient(patience=2),
}
NONE = NoScheduler()
PAIRS: dict[str, tuple[Sampler, Scheduler]] = {
    **{name: (sampler, NONE) for name, sampler in SAMPLERS.items()},
    **{name: (SAMPLERS["tpe"], scheduler) for name, scheduler in SCHEDULERS.items()},
    **{f"{name}, hyperband": (SAMPLERS[name], SCHEDULERS["hyperband"]) for name in ("random", "cma-es", "sobol", "nsga2")},
}
"""Under HyperBand, Optuna shows its samplers a study of one bracket."""


def curve(settings: dict[str, Any]) -> list[float]:
    """Rises or falls, with ripples, by the settings; each so many a trial fails."""
    good = 1 - abs(settings["kd.weight"] - 1.2) - abs(math.log(settings["training.optimizer.lr"] / 0.05)) / 5
    ripples = [0.1 * math.sin(epoch * settings["pairs.balance.every"]) for epoch in range(EPOCHS)]
    values = [good * (1 + epoch * (good - 0.5) / EPOCHS) + ripple for epoch, ripple in enumerate(ripples)]
    return values[:3] if settings["pairs.balance.every"] % 4 == 1 else values


def longer(settings: dict[str, Any]) -> list[float]:
    """The curve of a trial that no longer fails."""
    return (curve(settings) * 3)[:EPOCHS]


def study(root: Path, pair: str, of: Callable[[dict[str, Any]], list[float]] = curve) -> MadeUpStudy:
    sampler, scheduler = PAIRS[pair]
    return MadeUpStudy(root, of, epochs=EPOCHS, trials=TRIALS[pair], sampler=sampler, scheduler=scheduler)


@pytest.fixture(scope="module", autouse=True)
def _disk_that_need_not_be_waited_for() -> Iterator[None]:
    """It is drivers that die here, not machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="module", params=PAIRS)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, MadeUpStudy]:
    made = study(tmp_path_factory.mktemp("study") / "study", request.param)
    made.run()
    return request.param, made


@pytest.mark.parametrize("every", [pytest.param(3, marks=pytest.mark.slow), 8])
def test_an_interrupted_search_suggests_and_stops_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: tuple[str, MadeUpStudy], every: int
) -> None:
    name, whole = undisturbed
    interrupted = study(tmp_path / "study", name)
    interrupted.run(dies_every=every)
    assert interrupted.outcome() == whole.outcome()


def test_ends_are_told_as_what_they_are(undisturbed: tuple[str, MadeUpStudy]) -> None:
    """So that the comparison above is of something: there are trials of each end that the scheduler allows."""
    name, whole = undisturbed
    expected = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    ends = whole.outcome().values()
    assert all(told == expected[state] for _, state, _, told, _, _ in ends)
    states = {state for _, state, *_ in ends}
    assert states >= {"completed", "failed" if PAIRS[name][1] == NONE else "stopped"}
    for settings, state, params, _, values, value in ends:
        assert settings == params
        assert values == dict(enumerate(curve(settings)[: len(values)], 1))
        assert value == (None if state == "failed" else values[len(values)])


def test_failed_trials_are_run_again_under_their_own_name(tmp_path: Path, undisturbed: tuple[str, MadeUpStudy]) -> None:
    """By drivers that die in between; what has ended otherwise stays as it was."""
    name, whole = undisturbed
    before = whole.outcome()
    failed = [trial for trial, (_, state, *_) in before.items() if state == "failed"]
    root = shutil.copytree(whole.folder.root, tmp_path / "study")
    mended = study(root, name, longer)
    assert ask_again(mended.folder, "kd") == failed
    mended.run(dies_every=3)
    after = mended.outcome()
    for trial, (settings, state, *_) in after.items():
        if trial in failed:
            assert (settings, state != "failed") == (before[trial][0], True)
        else:
            assert after[trial] == before[trial]
