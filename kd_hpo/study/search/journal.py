"""Optuna's journal of a study: one file for the searches of all methods, each a study of Optuna's under the method's name."""

import os
from collections.abc import Iterable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from kd_hpo.config.wording import cut, one_line
from kd_hpo.errors import StudyError
from kd_hpo.study.store.folder import StudyFolder

_AGAIN = "again"
"""Marks a trial of the journal as a new run of an earlier one, whose number it holds."""
STOPPED = "stopped"
"""Holds the epoch at which the scheduler has decided to stop a trial, which may not have come to pass."""
STOPPED_FOR, BY_SCHEDULER = "stopped for", "by the scheduler"
"""Holds why, where it was not the scheduler, and the words where it was."""
FAILED = "failed"
"""Marks a trial that has failed, and has a value all the same: its settings are why."""


def journal(path: Path) -> JournalStorage:
    """Opens a study's journal. Raises StudyError for a file that is no journal of Optuna's."""
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
    """Takes away what a driver left that died while it wrote, or whose disk was full. Only the study's driver may do so.

    That is half a line, which the next one would be written behind, and the lock of the file.
    """
    Path(f"{folder.optuna}.lock").unlink(missing_ok=True)
    if folder.optuna.is_file():
        whole = folder.optuna.read_bytes().rfind(b"\n") + 1
        os.truncate(folder.optuna, whole)


def known_trials(folder: StudyFolder, method: str) -> list[FrozenTrial]:
    """The method's trials in the study's journal, finished or not; of one that is run again, the latest run.

    None where there is no journal yet.
    """
    if not folder.optuna.is_file():
        return []
    storage = journal(folder.optuna)
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return latest_runs(optuna.load_study(study_name=method, storage=storage).trials) if method in names else []


def latest_runs(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without the failed runs of those that were run again."""
    return list({number_in_folder(trial): trial for trial in trials}.values())


def ask_again(folder: StudyFolder, method: str) -> list[str]:
    """Puts the method's failed trials before those that are still to be suggested, with the settings that they had.

    What they left is set aside before, so that they start anew: a driver that dies in between finds them failed still.
    """

    def has_failed(trial: FrozenTrial) -> bool:
        if trial.state != TrialState.RUNNING:
            return bool(trial.state == TrialState.FAIL or FAILED in trial.user_attrs)
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


def reconcile(folder: StudyFolder, method: str) -> list[str]:
    """The method's trials that go on although the journal has their end: their folder, which is the record, has none.

    A disk that was full took the one and not the other, or the driver died in between. What the scheduler had decided to stop
    is stopped in the folder too; what else runs there goes on from its checkpoint, as a trial that was interrupted.
    """
    going_on = []
    for trial in known_trials(folder, method):
        name = searched_id(method, number_in_folder(trial))
        status = folder.status(name) if trial.state.is_finished() else None
        if status is None or status.state != "running":
            continue
        if trial.state == TrialState.PRUNED and STOPPED in trial.user_attrs:
            words = f"after epoch {trial.user_attrs[STOPPED]}, {trial.user_attrs.get(STOPPED_FOR, BY_SCHEDULER)}"
            folder.write_status(status.replace(state="stopped", message=words))
            continue
        _go_on(optuna.load_study(study_name=method, storage=journal(folder.optuna)), trial)
        going_on.append(name)
    return going_on


def _go_on(study: optuna.Study, ended: FrozenTrial) -> None:
    """The trial once more, as one that runs and has told of its epochs."""
    study.add_trial(
        create_trial(
            state=TrialState.RUNNING,
            params=ended.params,
            distributions=ended.distributions,
            intermediate_values=ended.intermediate_values,
            user_attrs={name: value for name, value in ended.user_attrs.items() if name != FAILED}
            | {_AGAIN: number_in_folder(ended)},
            system_attrs=ended.system_attrs,
        )
    )


def is_running(trial: FrozenTrial) -> bool:
    """Whether the trial was asked for and has not ended."""
    return bool(trial.state == TrialState.RUNNING)


def number_in_folder(trial: Trial | FrozenTrial) -> int:
    return int(trial.user_attrs.get(_AGAIN, trial.number))


def searched_id(method: str, number: int) -> str:
    return f"{method}-t{number:03d}"
