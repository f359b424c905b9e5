"""OptunaSearch made safe: its study lives on disk, stopped trials are pruned, failures are failures, nothing is asked twice.

The searches of several methods run side by side, each with its own sampler and its own rungs.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from kd_hpo.config.study import Asha
from kd_hpo.config.weightings import Matrix
from kd_hpo.config.wording import cut, one_line
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.design.trials import Searched
from kd_hpo.study.search.space import ray_space
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from kd_hpo.trial.result import GOALS, EpochRecord, Goal

EPOCH = "epoch"


class StudySearch(Searcher):  # type: ignore[misc]
    """Suggests the trials of several methods' searches, one method after the other: they share what a worker has prepared."""

    def __init__(self, searches: Sequence["MethodSearch"], halt: StudyStopper | None = None) -> None:
        super().__init__()
        self._halt = halt or StudyStopper()
        self._waiting = [search for search in searches for _ in range(search.left)]
        self._of: dict[str, MethodSearch] = {}

    @property
    def left(self) -> int:
        """How many trials are still to be suggested."""
        return len(self._waiting)

    def suggest(self, trial_id: str) -> Any:
        if trial_id not in self._of:
            if not self._waiting:
                return Searcher.FINISHED
            self._of[trial_id] = self._waiting.pop(0)
        with self._halt.on_error(self._of[trial_id].journal):
            return self._of[trial_id].suggest(trial_id)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        with self._halt.on_error(self._of[trial_id].journal):
            self._of[trial_id].on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._of:
            with self._halt.on_error(self._of[trial_id].journal):
                self._of[trial_id].on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's folder is the record."""


class MethodSearch(OptunaSearch):  # type: ignore[misc]
    """Suggests trials of one method; continues from the study's folder.

    A trial is known by its number in the method's study of Optuna's journal. Trials that were running when the driver died
    are suggested again first, under the same number, so that they go on from their checkpoints; new ones are asked for after
    them. What a new one is depends on its number, the seed and the trials that have ended, not on how often the study was
    interrupted. A trial that has failed may be run again: in the journal under a new number, in the folder under its old one.
    Ray 2.60's OptunaSearch completes stopped trials and chokes on a journal that is ahead of it; this one asks and
    tells Optuna itself, through the private `_ot_trials` and `_ot_study` of that version.

    goal          what is told of a trial, and which way is better
    trial_seed    of every trial
    sampler_seed  of what is suggested
    start         what lambda of a trial that is suggested now starts from, if anything
    """

    def __init__(
        self,
        search: Searched,
        folder: StudyFolder,
        *,
        goal: Goal = GOALS["accuracy"],
        trial_seed: int,
        sampler_seed: int,
        epochs: int,
        start: Callable[[], Matrix | None] = lambda: None,
        judged: Callable[[TrialSpec], list[EpochRecord]] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._method, self._epochs, self._trial_seed = folder, search.method, epochs, trial_seed
        self._goal, self._start, self.journal = goal, start, folder.optuna
        self._judged = judged or (lambda spec: folder.records(spec.id))
        super().__init__(
            space=self.convert_search_space(ray_space(search.space)),
            metric=goal.metric,
            mode=goal.mode,
            storage=journal(folder.optuna),
            study_name=search.method,
        )
        self._sampler_seed = sampler_seed
        self._first = {path: value for path, value in search.first.items() if _among(self._space[path], value)}
        self._catch_up()
        ended = sum(trial.state.is_finished() for trial in known_trials(folder, search.method))
        self.left = max(search.trials - ended, 0)
        self._unfinished = [t.number for t in self._ot_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if trial_id not in self._ot_trials:
            self._ot_trials[trial_id] = self._next_trial()
        trial = self._ot_trials[trial_id]
        return {"spec": self.spec(self._id(trial), trial.params).model_dump(mode="json")}

    def spec(self, name: str, params: dict[str, Any]) -> TrialSpec:
        begun = self._folder.status(name)
        start = begun.spec.start if begun else self._start()  # one that goes on is the same trial, whatever was learned since
        return TrialSpec(id=name, kind="search", method=self._method, seed=self._trial_seed, settings=params, start=start)

    def _id(self, trial: Trial | optuna.trial.FrozenTrial) -> str:
        return searched_id(self._method, number_in_folder(trial))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self._completed_trials:
            self._report(self._ot_trials[trial_id], result.get(self._goal.metric), result.get(EPOCH, 0))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials or trial_id not in self._ot_trials:
            return
        self._completed_trials.add(trial_id)
        value, epoch = (result or {}).get(self._goal.metric), (result or {}).get(EPOCH, 0)
        trial = self._ot_trials[trial_id]
        status = self._folder.status(self._id(trial))
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
        trials = self._ot_study.get_trials(deepcopy=False)
        if not trials and self._first:
            self._ot_study.enqueue_trial(self._first)
        number = sum(trial.state != TrialState.WAITING for trial in trials)
        self._ot_study.sampler = TpeOfOneSpace(self._space, seed=mixed(self._sampler_seed, number))
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
            status = self._folder.status(self._id(trial))
            if status is None or status.state == "running":
                continue
            records = self._judged(status.spec)
            for record in records:
                self._report(Trial(self._ot_study, trial._trial_id), record.metrics[self._goal.metric], record.epoch)
            value = records[-1].metrics[self._goal.metric] if records else None
            self._tell(trial.number, value, records[-1].epoch if records else 0, failed=status.state == "failed")


class TpeOfOneSpace(optuna.samplers.TPESampler):
    """Optuna's TPE, told the space that all its trials share: it would look for that in every trial, at each suggestion."""

    def __init__(self, space: Mapping[str, BaseDistribution], *, seed: int) -> None:
        super().__init__(seed=seed)
        self._shared = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._shared)


class StudyAsha(ASHAScheduler):  # type: ignore[misc]
    """ASHA that compares trials of one method only, and goes on where an earlier run of the study stood.

    It knows every epoch that is on disk, and judges none twice: judged again, a trial that goes on would meet those that it
    has outlived at its own first epochs, and be stopped. The rungs are Ray's private `_brackets` and `_trial_info`.
    """

    def __init__(
        self,
        asha: Asha,
        folder: StudyFolder,
        *,
        goal: Goal = GOALS["accuracy"],
        epochs: int,
        judged: Callable[[TrialSpec], list[EpochRecord]] | None = None,
    ) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=goal.metric,
            mode=goal.mode,
            max_t=epochs + 1,  # a trial that has all its epochs ends by itself
            grace_period=min(asha.grace_epochs, epochs),
            reduction_factor=asha.reduction_factor,
        )
        self._judged = judged or (lambda spec: folder.records(spec.id))
        self._unjudged, self._of_method = self._brackets[0], dict[str, Any]()
        for status in folder.statuses():
            if status.spec.kind == "search" and status.state != "running":
                ended = _EndedTrial(status.spec.id, {"spec": status.spec.model_dump()})
                self.on_trial_add(None, ended)
                self.on_trial_remove(None, ended)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        spec = TrialSpec.model_validate(trial.config["spec"])
        self._trial_info[trial.trial_id] = self._of_method.setdefault(spec.method, deepcopy(self._unjudged))
        for record in self._judged(spec):  # what is decided here was decided then
            self.on_trial_result(tune_controller, trial, {EPOCH: record.epoch, **record.metrics})


@dataclass(frozen=True)
class _EndedTrial:
    """The part of Ray's trial that a scheduler looks at."""

    trial_id: str
    config: dict[str, Any]


def _among(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the value is one that the distribution gives."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False


# ---- Optuna's journal


def journal(path: Path) -> JournalStorage:
    """Raises StudyError for a file that is no journal of Optuna's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return JournalStorage(JournalFileBackend(str(path)))  # reads it
    except Exception as error:  # for broken lines Optuna raises nearly any type
        said = cut(one_line(f"{type(error).__name__}: {error}"))
        raise StudyError(
            f"{path} is broken ({said}), so the study's search is lost; its trials are in {path.parent / 'trials'}. "
            "Start the study under another name (--set name=...)"
        ) from error


def mend_journal(folder: StudyFolder) -> None:
    """Takes away what a driver left that died while it wrote, or whose disk was full: half a line, which the next one would
    be written behind, and the lock of the file. Only the study's driver may do so."""
    Path(f"{folder.optuna}.lock").unlink(missing_ok=True)
    if folder.optuna.is_file():
        whole = folder.optuna.read_bytes().rfind(b"\n") + 1
        os.truncate(folder.optuna, whole)


def known_trials(folder: StudyFolder, method: str) -> list[optuna.trial.FrozenTrial]:
    """The method's trials in the study's journal, finished or not; of one that is run again, the latest run.

    None where there is no journal yet.
    """
    if not folder.optuna.is_file():
        return []
    storage = journal(folder.optuna)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    trials = optuna.load_study(study_name=method, storage=storage).trials if method in names else []
    return list({number_in_folder(trial): trial for trial in trials}.values())


def ask_again(folder: StudyFolder, method: str) -> list[str]:
    """Puts the method's failed trials before those that are still to be suggested, with the settings that they had.

    What they left is set aside before, so that they start anew: a driver that dies in between finds them failed still.
    """

    def has_failed(trial: optuna.trial.FrozenTrial) -> bool:
        if trial.state != TrialState.RUNNING:
            return bool(trial.state == TrialState.FAIL)
        status = folder.status(searched_id(method, number_in_folder(trial)))  # the driver may have died before it told Optuna
        return status is not None and status.state == "failed"

    failed = [trial for trial in known_trials(folder, method) if has_failed(trial)]
    names = [searched_id(method, number_in_folder(trial)) for trial in failed]
    for name, trial in zip(names, failed, strict=True):
        folder.set_aside(name)
        study = optuna.load_study(study_name=method, storage=journal(folder.optuna))
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        study.enqueue_trial(trial.params, user_attrs={_AGAIN: number_in_folder(trial)})
    return names


_AGAIN = "again"
"""Marks a trial of the journal as a new run of an earlier one, whose number it holds."""


def number_in_folder(trial: Trial | optuna.trial.FrozenTrial) -> int:
    return int(trial.user_attrs.get(_AGAIN, trial.number))


def searched_id(method: str, number: int) -> str:
    return f"{method}-t{number:03d}"


def mixed(*numbers: int) -> int:
    """A seed for each tuple of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
