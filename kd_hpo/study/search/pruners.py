"""Makes Optuna's pruners by the name that a study gives them: which trials are stopped early.

A pruner decides by what stands in the journal, where Optuna keeps what HyperBand has to remember too, so that a study that
goes on goes on with it. It sees the trials of one method, whose study it is.
"""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PatientPruner, PercentilePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from kd_hpo.config.search import Asha, Hyperband, Median, NoScheduler, Patient, Percentile, Scheduler
from kd_hpo.study.search.journal import latest_runs


def pruner_for(settings: Scheduler, *, epochs: int) -> BasePruner:
    """Makes the pruner of a search; `epochs` is of a trial that is not stopped."""
    match settings:
        case Asha():
            return AshaPruner(min(settings.grace_epochs, epochs), epochs, settings.reduction_factor)
        case Hyperband():
            return HyperbandPruner(min(settings.grace_epochs, epochs), epochs, settings.reduction_factor)
        case Median():
            return MedianPruner(settings.startup_trials, n_warmup_steps=settings.grace_epochs)
        case Percentile():
            return PercentilePruner(100 * settings.kept, settings.startup_trials, n_warmup_steps=settings.grace_epochs)
        case Patient():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return PatientPruner(None, settings.patience, settings.min_delta)
        case NoScheduler():
            return NopPruner()


def set_up(study: Study) -> None:
    """Has HyperBand make its brackets now, by asking it of a trial that has reported nothing.

    It makes them when it is first asked. Until then Optuna takes all trials for those of one bracket, and would show a sampler
    others after a study was interrupted.
    """
    if isinstance(study.pruner, HyperbandPruner):
        study.pruner.prune(study, create_trial(state=TrialState.RUNNING))


class AshaPruner(BasePruner):
    """Asynchronous successive halving (Li et al. 2020) by the rule of Ray Tune's ASHAScheduler, from the journal alone.

    Rungs stand at `grace`, `grace * factor`, `grace * factor ** 2`, ... epochs. A trial that comes to one goes on if it is not
    below the percentile 100 (1 - 1 / factor) of those that came there before it, interpolated between them, so that the first
    one always goes on. Optuna's SuccessiveHalvingPruner counts instead: of two trials, it stops the second unless it is the
    better one, at any factor.
    """

    def __init__(self, grace: int, epochs: int, factor: int) -> None:
        rungs = [grace]
        while rungs[-1] * factor <= epochs:
            rungs.append(rungs[-1] * factor)
        self._highest_first, self._factor = rungs[::-1], factor
        self._ended: dict[int, dict[int, tuple[int, float]]] = {}
        """By number: what a trial that has ended has at its rungs, which does not change."""

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        own = at_rungs(trial.intermediate_values, self._highest_first)
        came = [rung for rung, (epoch, _) in own.items() if epoch == trial.last_step]
        if not came:
            return False
        others = [each for each in latest_runs(study.get_trials(deepcopy=False)) if each.number != trial.number]
        there = [at[came[0]][1] for at in map(self._rungs_of, others) if came[0] in at]
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        merits, merit = [sign * value for value in there], sign * own[came[0]][1]
        return bool(merits) and bool(merit < np.percentile(merits, (1 - 1 / self._factor) * 100))

    def _rungs_of(self, trial: FrozenTrial) -> Mapping[int, tuple[int, float]]:
        if not trial.state.is_finished():
            return at_rungs(trial.intermediate_values, self._highest_first)
        if trial.number not in self._ended:
            self._ended[trial.number] = at_rungs(trial.intermediate_values, self._highest_first)
        return self._ended[trial.number]


def at_rungs(values: Mapping[int, float], highest_first: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Tells at which epoch a trial stood for each rung that it has come to, and what it had then.

    That is the rung's own epoch, where the trial told of it. One that tells of no early epochs, as its student had seen no
    label by then, stands for the highest rung that it has passed first, and for those below it an epoch later each.
    """
    found: dict[int, tuple[int, float]] = {}
    for epoch in sorted(values):
        rung = next((rung for rung in highest_first if rung <= epoch and rung not in found), None)
        if rung is not None:
            found[rung] = (epoch, values[epoch])
    return found
