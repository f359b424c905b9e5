"""A tracker that keeps a study in this process: what a protocol of a few methods asks for, and no more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.store.folder import StudyFolder, TrialAbout, TrialSpec, TrialStatus
from kd_hpo.study.tracking.tracker import Ending, KnownRun
from kd_hpo.trial.result import EpochRecord

_NUMBERS = count()


@dataclass
class Kept:
    """A run, which outlives the trackers that write it."""

    known: KnownRun
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    export: str | None = None


STORE: dict[str, dict[str, Kept]] = {}
"""By the study's identity, and by the run's id."""


class KeptRun:
    every = 1

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    @property
    def run_id(self) -> str:
        return self._kept.known.run

    def describe(self, about: TrialAbout | None, spec: TrialSpec, commit: str) -> None:
        self._kept.settings = dict(spec.settings)

    def log_epochs(self, records: Sequence[EpochRecord], times: Sequence[int], answered: Callable[[], None]) -> None:
        for record, _ in zip(records, times, strict=False):
            self._kept.epochs[record.epoch] = record
            answered()

    def finish(self, status: TrialStatus, records: Sequence[EpochRecord], export: str | None) -> None:
        state = "interrupted" if status.state == "running" else status.state
        self._kept.export, self._kept.known = export, replace(self._kept.known, state=state)


class InMemoryTracker:
    name, title, where, local, notice, link = "in_memory", "the memory", "this process", True, "", "nowhere"

    def __init__(self, study: StudyConfig) -> None:
        self._folder = StudyFolder.of(study)
        self._runs: dict[str, Kept] = {}
        self.shown: list[str] = []

    def open(self) -> None:
        self._runs = STORE.setdefault(self._folder.identity(), {})

    def runs(self) -> list[KnownRun]:
        return [kept.known for kept in self._runs.values()]

    def run_of(self, spec: TrialSpec, identity: str) -> KeptRun:
        of_trial = [kept for kept in self._runs.values() if kept.known.trial == spec.id]
        own = next((kept for kept in of_trial if kept.known.identity == identity), None)
        for other in of_trial:
            if other is not own:
                self.remove(other.known.run)
        if own is None:
            run = f"run-{next(_NUMBERS)}"
            own = self._runs[run] = Kept(KnownRun(run, spec.id, identity, None))
        own.known = replace(own.known, state=None)
        return KeptRun(own)

    def remove(self, run_id: str) -> None:
        del self._runs[run_id]

    def show(self, *, interrupted: bool) -> None:
        self.shown.append("interrupted" if interrupted else "on its way")

    def finish(self, ending: Ending) -> list[str]:
        self.shown.append("finished")
        return []

    def passing(self, error: BaseException) -> bool:
        return isinstance(error, OSError)

    def said(self, error: BaseException) -> str:
        return str(error)
