"""What a tracker is to a study: a place outside its folder that shows its trials, such as MLflow.

`TrackerSync` brings a tracker to where the folder stands and knows no more of it than `Tracker`; the author of another one
runs `kd_hpo.testing.tracker` on it, and names it in `tracking.kind`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kd_hpo.callables import import_callable
from kd_hpo.config.study import StudyConfig
from kd_hpo.study.results.comparison import Comparison
from kd_hpo.study.results.repeats import Repeated
from kd_hpo.study.results.standing import Learned
from kd_hpo.study.store.folder import TrialAbout, TrialSpec, TrialStatus
from kd_hpo.trial.result import EpochRecord

TRACKERS = {"mlflow": "kd_hpo.study.tracking.mlflow_tracker:MlflowTracker"}
"""By `tracking.kind`: what makes one for a study, imported when it is wanted."""


@dataclass(frozen=True)
class Ending:
    """What a study has come to."""

    comparison: Comparison
    learned: Learned | None
    repeated: Repeated | None = None
    """Over all repeats, once the last one has ended; None before, and of a study that is not repeated."""


@dataclass(frozen=True)
class KnownRun:
    """A run of a trial that a tracker has now."""

    run: str
    trial: str
    identity: str
    state: str | None
    """What the trial had come to when the run was finished, or `interrupted`; None of a run that is on its way."""


class TrialRun(Protocol):
    """A trial's run, written as often as need be, by one process after another: what stands there is not written twice.

    Whoever writes it may be cut off within any call, and calls it again, in this process or in the next one.
    """

    @property
    def run_id(self) -> str:
        """The id by which the tracker knows the run."""

    @property
    def every(self) -> int:
        """The number of epochs of the trial that come at once while it runs, 1 or more; settled by `describe`."""

    def describe(self, about: TrialAbout | None, spec: TrialSpec, commit: str) -> None:
        """Writes what the trial is, before its epochs, and whenever it is called with more than was known before.

        about   None where the trial failed before it could start
        commit  of the folder that the study was started in; empty outside a repository
        """

    def log_epochs(self, records: Sequence[EpochRecord], times: Sequence[int], answered: Callable[[], None]) -> None:
        """Writes the epochs that the tracker lacks, of all so far.

        times     when each ended, in milliseconds since 1970: the same whenever it is told; perhaps one more than records
        answered  to be called after each answer of the tracker, so that a slow one is told from one that hangs
        """

    def finish(self, status: TrialStatus, records: Sequence[EpochRecord], export: str | None) -> None:
        """Ends the run: the trial has ended, or was `running` when its study was interrupted.

        The last thing written is that it has.

        export  its learned matrix, as the content of a file that `kd-hpo apply` takes; None where it has learned none
        """


class Tracker(Protocol):
    """The place where one study is tracked. It is made for a study, without asking anything; its calls come from one thread.

    A call may raise anything: `passing` says whether to try it again.
    """

    @property
    def name(self) -> str:
        """The name under which the study's folder keeps run ids: one word, the same for ever."""

    @property
    def title(self) -> str:
        """The name that messages call the tracker."""

    @property
    def where(self) -> str:
        """The tracker's address as messages have it, without secrets."""

    @property
    def local(self) -> bool:
        """Whether the tracker is no more than files of this machine: then a slow start is no news."""

    @property
    def notice(self) -> str:
        """The words that a person should know from the start on, in a line; mostly empty."""

    @property
    def link(self) -> str:
        """The link that opens the study for a person, as far as it is known."""

    def open(self) -> None:
        """Finds the study's place by the identity of its folder, or makes it.

        Called again, it finds the same one, and makes another where that was deleted.
        """

    def runs(self) -> Iterable[KnownRun]:
        """Every run of a trial that the tracker has of the study, deleted ones aside."""

    def run_of(self, spec: TrialSpec, identity: str) -> TrialRun:
        """Gives the trial's run of this identity, on its way again, made if need be; other runs of the trial's name go."""

    def remove(self, run_id: str) -> None:
        """Deletes a run that is not the study's: a call was carried out after it had been given up."""

    def show(self, *, interrupted: bool) -> None:
        """Shows the study as a whole as its folder has it now: on its way, or interrupted."""

    def finish(self, ending: Ending) -> list[str]:
        """Shows the study as a whole at its end. Returns what could not be done, and why, a line each."""

    def passing(self, error: BaseException) -> bool:
        """Whether the call that raised the error may do later: the tracker is away, busy or slow. Else it has refused it."""

    def said(self, error: BaseException) -> str:
        """Tells what the error says, as the cause of it has it; secrets need not be taken out."""


def tracker_of(study: StudyConfig) -> Tracker:
    """Makes the tracker that the study names. Raises ConfigError where `tracking.kind` leads to none."""
    kind = study.tracking.kind
    tracker: Tracker = import_callable(TRACKERS.get(kind, kind))(study)
    return tracker
