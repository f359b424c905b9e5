"""How each trial has ended, decided by the driver for trials that cannot say it themselves, and written into the folder."""

from collections.abc import Mapping
from typing import Any

from ray.tune import Callback

from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.search.method_search import EPOCH
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.store.lease import Lease


class StatusKeeper(Callback):  # type: ignore[misc]
    """Writes `stopped` where the scheduler ends a trial, and `failed` where Ray gives one up.

    Ray calls callbacks in the order in which it is given them: this one comes before those that show how trials ended.

    folder   whose record it keeps
    stopper  ends the phase where that cannot be written; trials that Ray ends for it go on with the study, and stay `running`
    """

    def __init__(self, folder: StudyFolder, stopper: StudyStopper) -> None:
        self._folder, self.stopper = folder, stopper
        self._epochs: dict[str, int] = {}
        self._ended: dict[str, TrialStatus | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps a copy of its callbacks on disk, which nobody reads; the folder is the record

    def end_of(self, trial_id: str) -> TrialStatus | None:
        """The status that a trial has ended with, also where it could not be written; None where there is none."""
        return self._ended.get(trial_id)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        if EPOCH in result:
            self._epochs[id_of(trial)] = max(self._epochs.get(id_of(trial), 0), result[EPOCH])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        status = self._folder.status(id_of(trial))
        if status and status.state == "running" and not self.stopper.error:
            # the scheduler ends it, and its process has not come to say so
            words = f"after epoch {self._epochs.get(id_of(trial), 0)}, by the scheduler"
            status = self._written(status.replace(state="stopped", message=words))
        self._ended[id_of(trial)] = status

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Takes note of a trial whose process died, or raised, more often than `max_failures` allows.

        Where it lives on, it writes no more.

        What has failed as nothing can be written any more goes on with the study; it is told once.
        """
        halted = self.stopper.error is not None
        with self.stopper.on_error(self._folder.trial(id_of(trial))):
            Lease.begin(self._folder.trial(id_of(trial)))
        status = self._folder.status(id_of(trial))
        if (status is None or status.state == "running") and not halted:
            spec = TrialSpec.model_validate(trial.config["spec"])
            said = status.message if status else ""  # what it raised, where it could still write that
            status = TrialStatus(spec=spec, state="failed", message=said or _last_line(trial))
            status = status if self.stopper.error else self._written(status)
        self._ended[id_of(trial)] = status

    def _written(self, status: TrialStatus) -> TrialStatus:
        with self.stopper.on_error(self._folder.trial(status.spec.id)):
            self._folder.write_status(status)
        return status


def id_of(trial: Any) -> str:
    """The id in the study of a trial of Ray's."""
    return str(trial.config["spec"]["id"])


def _last_line(trial: Any) -> str:
    error = trial.get_error()
    lines = [line for line in str(error or "").strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its process ended without a word"
