"""How each trial has ended, decided by the driver for trials that cannot say it themselves, and written into the folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback

from kd_hpo.study.cluster.memory import NodeMemory, kept_memory, node_memory
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.run.death import Death, death, of_memory, with_remedy
from kd_hpo.study.search.journal import BY_SCHEDULER
from kd_hpo.study.search.method_search import EPOCH
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.store.lease import Lease


class StatusKeeper(Callback):  # type: ignore[misc]
    """Writes `stopped` where the scheduler ends a trial, and `failed` where Ray gives one up.

    Ray calls callbacks in the order in which it is given them: this one comes before those that show how trials ended.

    folder   whose record it keeps
    stopper  ends the phase where that cannot be written; trials that Ray ends for it go on with the study, and stay `running`
    memory   says how the memory of a node stands now, by its name; that of this machine, where all run here
    """

    def __init__(
        self,
        folder: StudyFolder,
        stopper: StudyStopper,
        memory: Callable[[str], NodeMemory | None] | None = None,
    ) -> None:
        self._folder, self.stopper, self._memory = folder, stopper, memory or (lambda _: node_memory())
        self._trials: Sequence[Any] = ()
        self._epochs: dict[str, int] = {}
        self._ended: dict[str, TrialStatus | None] = {}
        self._why: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps a copy of its callbacks on disk, which nobody reads; the folder is the record

    def end_of(self, trial_id: str) -> TrialStatus | None:
        """The status that a trial has ended with, also where it could not be written; None where there is none."""
        return self._ended.get(trial_id)

    def stopped_for(self, trial_id: str, why: str) -> None:
        """Takes note of why a trial is being stopped, where it is not by the scheduler."""
        self._why[trial_id] = why

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._trials = trials

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        if EPOCH in result:
            self._epochs[id_of(trial)] = max(self._epochs.get(id_of(trial), 0), result[EPOCH])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        status = self._folder.status(id_of(trial))
        if status and status.state == "running" and not self.stopper.error:
            # the search ends it, and its process has not come to say so
            words = f"after epoch {self._epochs.get(id_of(trial), 0)}, {self._why.get(id_of(trial), BY_SCHEDULER)}"
            status = self._written(status.replace(state="stopped", message=words))
        self._ended[id_of(trial)] = status

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if id_of(trial) not in self._ended:
            self._gave_up(trial)

    def given_up(self, trial_id: str) -> None:
        """Writes why Ray gives a trial up: a search asks for it before Ray calls `on_trial_error`."""
        for trial in self._trials:
            if id_of(trial) == trial_id and trial_id not in self._ended:
                self._gave_up(trial)

    def _gave_up(self, trial: Any) -> None:
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
            # what it raised, where it could still write that
            how = _as_it_says(status.message) if status and status.message else self._death_of(trial)
            status = TrialStatus(spec=spec, state="failed", message=how.words, of_settings=how.of_memory)
            status = status if self.stopper.error else self._written(status)
        self._ended[id_of(trial)] = status

    def _death_of(self, trial: Any) -> Death:
        before = kept_memory(self._folder, id_of(trial))
        return death(_told(trial), before, self._memory(before.node) if before else None)

    def _written(self, status: TrialStatus) -> TrialStatus:
        with self.stopper.on_error(self._folder.trial(status.spec.id)):
            self._folder.write_status(status)
        return status


def id_of(trial: Any) -> str:
    """The id in the study of a trial of Ray's."""
    return str(trial.config["spec"]["id"])


def _as_it_says(words: str) -> Death:
    return Death(with_remedy(words), True) if of_memory(words) else Death(words)


def _told(trial: Any) -> str:
    """What Ray says of the last failure of a trial, over many lines; it keeps that in a file."""
    file = trial.error_file
    if file is None or not Path(file).is_file():
        return str(trial.get_error() or "")
    last = Path(file).read_text(errors="replace").rpartition("Failure # ")[2]
    return last.partition("\n")[2]
