"""The search of one method: what it suggests, what it is told, and whom it stops, all of which stands in the journal."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from kd_hpo.config.search import Sampler, Scheduler
from kd_hpo.config.study import gives
from kd_hpo.config.task import Goal
from kd_hpo.config.weightings import Matrix
from kd_hpo.study.design.trials import Searched
from kd_hpo.study.search.journal import FAILED, STOPPED, STOPPED_FOR, latest_runs, number_in_folder, searched_id
from kd_hpo.study.search.pruners import pruner_for, set_up
from kd_hpo.study.search.samplers import sampler_for
from kd_hpo.study.search.space import distributions, suggest
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.trial.result import EpochRecord

EPOCH = "epoch"


@dataclass
class Asked:
    """A trial that was suggested, or goes on, and has not ended."""

    trial: Trial
    spec: TrialSpec
    epochs: set[int]
    """Of which Optuna has been told."""
    stopped: int | None
    """The epoch at which it is to be stopped, once that is decided."""


class MethodSearch:
    """Suggests trials of one method and stops poor ones; continues from the study's folder.

    A trial is known by its number in the method's study of Optuna's journal. Trials that were running when the driver died
    are suggested again first, under the same number, so that they go on from their checkpoints; new ones are asked for after
    them. What a new one is depends on its number, the seed and the trials that have ended, not on how often the study was
    interrupted. A trial that has failed may be run again: in the journal under a new number, in the folder under its old one.

    goal          what is told of a trial, and which way is better
    sampler       chooses from the ranges
    scheduler     stops trials; each epoch is judged once, when it is first told of
    trial_seed    of every trial
    sampler_seed  of what is suggested
    epochs        of a trial that is not stopped
    start         what lambda of a trial that is suggested now starts from, if anything
    judged        a trial's epochs on disk, those that are told of
    """

    def __init__(
        self,
        search: Searched,
        folder: StudyFolder,
        storage: JournalStorage,
        *,
        goal: Goal,
        sampler: Sampler,
        scheduler: Scheduler,
        trial_seed: int,
        sampler_seed: int,
        epochs: int,
        start: Callable[[], Matrix | None] = lambda: None,
        judged: Callable[[TrialSpec], list[EpochRecord]] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._method, self._epochs, self._trial_seed = folder, search.method, epochs, trial_seed
        self.metric, self._worst, self._start, self._storage = goal.key, goal.worst, start, storage
        self._sampler, self._trials = sampler, search.trials
        self._judged = judged or (lambda spec: folder.records(spec.id))
        self._space, self._sampler_seed = distributions(search.space), sampler_seed
        self._first = [
            {path: value for path, value in first.items() if gives(search.space[path], value)} for first in search.first
        ]
        self._study = optuna.create_study(
            storage=storage,
            study_name=search.method,
            direction="maximize" if goal.mode == "max" else "minimize",
            sampler=sampler_for(sampler, self._space, trials=search.trials, seed=sampler_seed, number=0),
            pruner=pruner_for(scheduler, epochs=epochs),
            load_if_exists=True,
        )
        set_up(self._study)
        self._catch_up()
        trials = self._study.get_trials(deepcopy=False)
        self.left = max(search.trials - sum(trial.state.is_finished() for trial in latest_runs(trials)), 0)
        self._unfinished = [trial.number for trial in trials if trial.state == TrialState.RUNNING]

    @property
    def unfinished(self) -> int:
        """The number of trials that an earlier driver asked for and that have not been asked for again."""
        return len(self._unfinished)

    # ---- a trial's life

    def ask(self) -> Asked:
        """Suggests the next trial."""
        if self._unfinished:
            return self._asked(self._running(self._unfinished.pop(0)))
        trials = self._study.get_trials(deepcopy=False)
        asked = sum(trial.state != TrialState.WAITING for trial in trials)
        first = self._first[len(latest_runs(trials)) :][:1] if asked == len(trials) else []  # else one waits to be run again
        for settings in filter(None, first):
            self._study.enqueue_trial(settings)
        self._sample_for(asked)
        with warnings.catch_warnings():  # a Gaussian process takes the worst finite value for the worst one, and says so
            warnings.filterwarnings("ignore", "Clip non-finite values")
            return self._asked(self._study.ask(fixed_distributions=self._space))

    def judge(self, asked: Asked, result: Mapping[str, Any]) -> bool:
        """Tells Optuna of an epoch, and whether the trial is to be stopped after it.

        An epoch that is told again, by a trial that goes on from a checkpoint, is not judged again: the trial would meet
        others there that came later. What was decided then holds.
        """
        epoch = result.get(EPOCH, 0)
        if self._report(asked, result.get(self.metric), epoch) and epoch < self._epochs and asked.trial.should_prune():
            asked.stopped = epoch
            asked.trial.set_user_attr(STOPPED, epoch)
        return asked.stopped is not None and epoch >= asked.stopped

    def stop(self, asked: Asked, result: Mapping[str, Any], why: str) -> bool:
        """Stops a trial after the epoch of a result, for another reason than that it is poor; not after its last one."""
        epoch = result.get(EPOCH, 0)
        if epoch >= self._epochs:
            return False
        asked.stopped = epoch
        asked.trial.set_user_attr(STOPPED, epoch)
        asked.trial.set_user_attr(STOPPED_FOR, why)
        return True

    def end(self, asked: Asked, result: Mapping[str, Any], *, failed: bool) -> None:
        """Tells Optuna of a trial's end. One whose settings are why it failed has the worst value there is.

        As a failure, it would teach a sampler nothing, and others like it would be suggested.

        result  of its last epoch; empty where it had none
        """
        status = self._folder.status(asked.spec.id)
        if status is not None and status.of_settings:
            asked.trial.set_user_attr(FAILED, True)
            self._study.tell(asked.trial.number, self._worst, skip_if_finished=True)
            return
        failed = failed or (status is not None and status.state == "failed")  # Ray knows of no error that the trial caught
        self._tell(asked.trial.number, result.get(self.metric), result.get(EPOCH, 0), failed=failed)

    def status_of(self, asked: Asked) -> TrialStatus | None:
        return self._folder.status(asked.spec.id)

    # ---- how it is said in Optuna

    def _running(self, number: int) -> Trial:
        """The trial that an earlier driver asked for, with what that did not live to write of its settings."""
        self._sample_for(number)
        study_id = self._storage.get_study_id_from_name(self._method)
        trial = Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study_id, number))
        for name, distribution in self._space.items():
            suggest(trial, name, distribution)
        return trial

    def _sample_for(self, number: int) -> None:
        self._study.sampler = sampler_for(self._sampler, self._space, trials=self._trials, seed=self._sampler_seed, number=number)

    def _asked(self, trial: Trial) -> Asked:
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        return Asked(trial, self._spec(frozen), set(frozen.intermediate_values), frozen.user_attrs.get(STOPPED))

    def _spec(self, trial: FrozenTrial) -> TrialSpec:
        name = searched_id(self._method, number_in_folder(trial))
        begun = self._folder.status(name)
        start = begun.spec.start if begun else self._start()  # one that goes on is the same trial, whatever was learned since
        settings = {path: trial.params[path] for path in self._space}
        return TrialSpec(id=name, kind="search", method=self._method, seed=self._trial_seed, settings=settings, start=start)

    def _report(self, asked: Asked, value: float | None, epoch: int) -> bool:
        """Whether it was new."""
        if value is None or not math.isfinite(value) or epoch in asked.epochs:
            return False
        asked.epochs.add(epoch)
        asked.trial.report(value, epoch)
        return True

    def _tell(self, number: int, value: float | None, epoch: int, *, failed: bool) -> None:
        if failed or value is None:
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        elif not math.isfinite(value):
            self._study.tell(number, self._worst, skip_if_finished=True)
        elif epoch < self._epochs:  # the value stands among the intermediate ones
            self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(number, value, skip_if_finished=True)

    def _catch_up(self) -> None:
        """Tells Optuna of trials whose end is on disk, but which the driver died before it could tell of."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            status = self._folder.status(searched_id(self._method, number_in_folder(trial)))
            if status is None or status.state == "running":
                continue
            asked, records = self._asked(self._running(trial.number)), self._judged(status.spec)
            for record in records:
                if self._report(asked, record.metrics[self.metric], record.epoch):
                    asked.trial.should_prune()  # for what a pruner remembers of it; the trial has ended whatever it says
            last = {EPOCH: records[-1].epoch, **records[-1].metrics} if records else {}
            self.end(asked, last, failed=status.state == "failed")
