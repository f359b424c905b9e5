"""Which trials are stopped: ASHA against Ray's own, and the settings of the others."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler

from kd_hpo.config.search import Asha, Hyperband, Median, NoScheduler, Patient, Percentile, Scheduler
from kd_hpo.study.search.pruners import at_rungs, pruner_for


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("seed", range(6))
def test_asha_stops_whom_rays_scheduler_stops(mode: str, seed: int) -> None:
    """Trials of random curves, in any order, of which some tell of no early epochs and some fail."""
    rng = np.random.default_rng(seed)
    grace, factor, epochs = int(rng.integers(1, 5)), int(rng.integers(2, 5)), int(rng.integers(8, 30))
    study = optuna.create_study(
        direction="maximize" if mode == "max" else "minimize",
        pruner=pruner_for(Asha(grace_epochs=grace, reduction_factor=factor), epochs=epochs),
    )
    ray = ASHAScheduler("epoch", metric="value", mode=mode, max_t=epochs + 1, grace_period=grace, reduction_factor=factor)
    live: list[tuple[optuna.Trial, SimpleNamespace, Any]] = []
    for _ in range(25):
        trial, first = study.ask(), int(rng.choice([1, 1, 1, 4, 7]))
        live.append((trial, SimpleNamespace(trial_id=str(trial.number)), iter(range(first, epochs))))
        ray.on_trial_add(None, live[-1][1])
    stopped = 0
    while live:
        trial, ray_trial, epochs_left = live[place := int(rng.integers(len(live)))]
        epoch = next(epochs_left, None)
        if epoch is None or rng.random() < 0.01:
            study.tell(trial, state=TrialState.PRUNED if epoch is None else TrialState.FAIL)
            live.pop(place)
            continue
        value = float(rng.choice([0.1, 0.3, 0.5, rng.random()]))  # with ties
        trial.report(value, epoch)
        verdict = trial.should_prune()
        assert verdict == (ray.on_trial_result(None, ray_trial, {"epoch": epoch, "value": value}) == "STOP")
        if verdict:
            stopped += 1
            study.tell(trial, state=TrialState.PRUNED)
            live.pop(place)
    assert stopped > 3


def test_at_rungs_of_a_trial_that_tells_of_no_early_epochs() -> None:
    assert at_rungs({1: 0.1, 2: 0.2, 3: 0.3}, [3, 1]) == {1: (1, 0.1), 3: (3, 0.3)}
    assert at_rungs({5: 0.5, 6: 0.6, 7: 0.7}, [9, 3, 1]) == {3: (5, 0.5), 1: (6, 0.6)}
    assert at_rungs({}, [3, 1]) == {}


def stops(settings: Scheduler, curves: Iterable[list[float]], *, epochs: int = 9) -> list[int | None]:
    """The epoch at which each trial is stopped, one trial after the other."""
    study = optuna.create_study(direction="maximize", pruner=pruner_for(settings, epochs=epochs))
    found: list[int | None] = []
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve, 1):
            trial.report(value, epoch)
            if epoch < epochs and trial.should_prune():
                found.append(epoch)
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            found.append(None)
            study.tell(trial, curve[-1])
    return found


FLAT = [[level] * 9 for level in (0.4, 0.6, 0.5, 0.45, 0.55)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (NoScheduler(), [None] * 5),
        (Asha(grace_epochs=2, reduction_factor=4), [None, None, 2, 2, None]),  # below .55 twice; above .525
        (Median(grace_epochs=2, startup_trials=2), [None, None, None, 2, None]),  # below .5; .5 and .55 are not
        (Median(grace_epochs=4, startup_trials=4), [None, None, None, None, None]),
        (Percentile(grace_epochs=3, startup_trials=2, kept=0.25), [None, None, 3, 3, None]),  # below .55 each
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_flat_curves(settings: Scheduler, expected: list[int | None]) -> None:
    assert stops(settings, FLAT) == expected


def test_patience_ends_with_the_best_of_the_last_epochs_below_the_best_before() -> None:
    falls, rises, dips = [0.9, 0.8, 0.8, 0.8, 0.8], [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.4, 0.6, 0.5]
    assert stops(Patient(patience=2), [falls, rises, dips]) == [4, None, None]
    assert stops(Patient(patience=1), [falls, rises, dips]) == [3, None, 3]
    assert stops(Patient(patience=1, min_delta=0.2), [falls, rises, dips]) == [None, None, None]


def test_hyperband_gives_some_trials_a_longer_grace() -> None:
    """Of trials that get ever worse, those of the first bracket end at epoch 1, of the second at 3, of the last at their end."""
    worse = [[1 - number / 100] * 9 for number in range(40)]
    found = stops(Hyperband(grace_epochs=1, reduction_factor=3), worse)
    assert set(found) == {None, 1, 3}
    assert set(stops(Asha(grace_epochs=1), worse)) == {None, 1}
