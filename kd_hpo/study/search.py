"""OptunaSearch made safe: its study lives on disk, stopped trials are pruned, failures are failures, nothing is asked twice."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from kd_hpo.config.study import Asha, Search
from kd_hpo.study.folder import StudyFolder, TrialSpec
from kd_hpo.study.search_space import ray_space
from kd_hpo.trial.result import METRIC

EPOCH = "epoch"


def _id(number: int) -> str:
    return f"trial-{number:03d}"


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """Suggests trials of a study; continues one from its folder.

    A trial is known by its number in Optuna's journal. Trials that were running when the driver died are suggested again
    first, under the same number, so that they go on from their checkpoints; new ones are asked for after them.
    Ray 2.60's OptunaSearch completes stopped trials and chokes on a journal that is ahead of it; this one asks and tells
    Optuna itself, through the private `_ot_trials` and `_ot_study` of that version.
    """

    def __init__(self, search: Search, folder: StudyFolder, *, seed: int, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._method, self._epochs, self._trial_seed = folder, search.method, epochs, seed
        storage = journal(folder.optuna)
        known = known_trials(folder)
        super().__init__(
            space=self.convert_search_space(ray_space(search.space)),
            metric=METRIC,
            mode="max",
            storage=storage,
            study_name=folder.root.name,
            sampler=optuna.samplers.TPESampler(seed=search.seed + len(known)),  # the same seed would suggest the same points
        )
        self._catch_up()
        self._unfinished = [t.number for t in self._ot_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if trial_id not in self._ot_trials:
            self._ot_trials[trial_id] = self._next_trial()
        trial = self._ot_trials[trial_id]
        return {"spec": self.spec(trial.number, trial.params).model_dump(mode="json")}

    def spec(self, number: int, params: dict[str, Any]) -> TrialSpec:
        return TrialSpec(id=_id(number), kind="search", method=self._method, seed=self._trial_seed, settings=params)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self._completed_trials:
            self._report(self._ot_trials[trial_id], result.get(METRIC), result.get(EPOCH, 0))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials or trial_id not in self._ot_trials:
            return
        self._completed_trials.add(trial_id)
        value, epoch, trial = (result or {}).get(METRIC), (result or {}).get(EPOCH, 0), self._ot_trials[trial_id]
        status = self._folder.status(_id(trial.number))
        failed = error or (status is not None and status.state == "failed")  # Ray knows of no error that the trial caught
        if not failed:
            self._report(trial, value, epoch)  # Ray does not pass on the result at which the scheduler stops a trial
        self._tell(trial.number, value, epoch, failed=failed)

    def _next_trial(self) -> Trial:
        if self._unfinished:
            number = self._unfinished.pop(0)
            trial = Trial(self._ot_study, self._ot_study.get_trials(deepcopy=False)[number]._trial_id)
            for name, distribution in self._space.items():  # gives what the journal has, and what it lost in mid-writing
                trial._suggest(name, distribution)
            return trial
        asked: Trial = self._ot_study.ask(fixed_distributions=self._space)
        return asked

    def _report(self, trial: Trial, value: float | None, epoch: int) -> None:
        there = self._ot_study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if value is not None and math.isfinite(value) and epoch not in there:
            trial.report(value, epoch)

    def _tell(self, number: int, value: float | None, epoch: int, *, failed: bool) -> None:
        if failed or value is None or not math.isfinite(value):
            self._ot_study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        elif epoch < self._epochs:  # the value stands among the intermediate ones
            self._ot_study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self._ot_study.tell(number, value, skip_if_finished=True)

    def _catch_up(self) -> None:
        """Tells Optuna of trials whose end is on disk, but which the driver died before it could tell of."""
        for trial in self._ot_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            status = self._folder.status(_id(trial.number))
            if status is None or status.state == "running":
                continue
            records = self._folder.records(status.spec.id)
            for record in records:
                self._report(Trial(self._ot_study, trial._trial_id), record.metrics[METRIC], record.epoch)
            value = records[-1].metrics[METRIC] if records else None
            self._tell(trial.number, value, records[-1].epoch if records else 0, failed=status.state == "failed")


class StudyAsha(ASHAScheduler):  # type: ignore[misc]
    """ASHA that goes on where an earlier run of the study stood: it knows every epoch that is on disk, and judges none twice.

    Judged again, a trial that goes on would meet those that it has outlived at its own first epochs, and be stopped.
    """

    def __init__(self, asha: Asha, folder: StudyFolder, *, epochs: int) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=METRIC,
            mode="max",
            max_t=epochs + 1,  # a trial that has all its epochs ends by itself
            grace_period=asha.grace_epochs,
            reduction_factor=asha.reduction_factor,
        )
        self._folder = folder
        for status in folder.statuses():
            if status.spec.kind == "search" and status.state != "running":
                ended = _EndedTrial(status.spec.id, {"spec": status.spec.model_dump()})
                self.on_trial_add(None, ended)
                self.on_trial_remove(None, ended)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for record in self._folder.records(trial.config["spec"]["id"]):  # what is decided here was decided then
            self.on_trial_result(tune_controller, trial, {EPOCH: record.epoch, **record.metrics})


@dataclass(frozen=True)
class _EndedTrial:
    """The part of Ray's trial that a scheduler looks at."""

    trial_id: str
    config: dict[str, Any]


def journal(path: Path) -> JournalStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def known_trials(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    """The trials in the study's journal, finished or not; none where there is no journal yet."""
    if not folder.optuna.is_file():
        return []
    storage = journal(folder.optuna)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return optuna.load_study(study_name=folder.root.name, storage=storage).trials if folder.root.name in names else []
