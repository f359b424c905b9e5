"""Brings a tracker to where a study's folder stands, beside the study: nothing that trains or chooses ever waits for it."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_when_event_set, wait_exponential_jitter
from tenacity.nap import sleep_using_event

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.wording import one_line
from kd_hpo.errors import StudyError, without_secrets
from kd_hpo.study.environment import git_commit
from kd_hpo.study.matrices.export import trial_export
from kd_hpo.study.status_line import say
from kd_hpo.study.store.folder import State, StudyFolder, TrialStatus
from kd_hpo.study.tracking.tracker import Ending, KnownRun, Tracker, TrialRun, tracker_of

_LOOKS_EVERY_S = 0.5
_FIRST_ANSWER_S = 10.0
_LARGE_OVERVIEW_WAITS = 20
_MOST_CHARACTERS = 200
_OVERVIEW = "the study's overview"


class TrackerSync:
    """Writes to a tracker, on a thread of its own, what its runs lack of the study's folder, in order and once.

    The folder is what waits to be written: while the tracker is away, hangs or is locked, the thread tries again and lags
    behind, and once the tracker answers it catches up. Whatever it was doing when it was cut off it may do again, since a run
    is known by its trial's identity, and an epoch by the time at which it ended. What a person deletes there is written anew
    at the study's end, or when the tracker refuses more of it.
    """

    def __init__(self, study: StudyConfig, tracker: Tracker | None = None) -> None:
        """tracker  that of the study if not given"""
        self.tracker = tracker or tracker_of(study)
        self.opened = False
        """Whether the tracker has answered."""
        self.fault: BaseException | None = None
        """What the tracker said last, where it has not answered since."""
        self.refused: dict[str, Exception] = {}
        """Why a trial cannot be written, by its id, or the overview."""
        self.notes: list[str] = []
        """What a person should know of the study's end in the tracker."""
        self._study, self._folder, self._commit = study, StudyFolder.of(study), git_commit()
        self._runs: dict[str, TrialRun] = {}
        self._epochs: dict[str, int] = {}
        """How many epochs a running trial has when they are written next."""
        self._states: dict[str, State] = {status.spec.id: status.state for status in self._folder.statuses()}
        going = {trial for trial, state in self._states.items() if state == "running"}  # once it is started again
        self._written: dict[str, tuple[int, ...]] = {trial: self._folder.changed(trial) for trial in going}
        self._known: dict[str, KnownRun] = {}
        """The runs that have ended in the tracker, by their trials."""
        self._shown: dict[str, State] | None = None
        """How the trials stood when the overview was written last."""
        self._overview_at = 0.0
        """When it may be written next: of thousands of trials it takes seconds."""
        self._ending: Ending | None = None
        self._finished = False
        self._asked = self._served = 0
        self._closing = False
        self._change = threading.Condition()
        self._left = threading.Event()
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def start(self) -> None:
        """Starts the thread, and waits a moment for the tracker's first answer.

        Raises StudyError where it can never be the right one.
        """
        self._thread.start()
        until = time.monotonic() + _FIRST_ANSWER_S
        with self._change:
            self._change.wait_for(lambda: self.opened or self.fault or not self._thread.is_alive(), until - time.monotonic())
        if not self._thread.is_alive() and self.fault is not None:
            if isinstance(self.fault, StudyError):
                raise self.fault
            cause = self.fault if without_secrets(str(self.fault)) == str(self.fault) else None  # a traceback would tell it
            raise StudyError(
                f"{self.tracker.title} does not work at {self.tracker.where}: {self.said}. The study's own folder is kept; "
                "see tracking.uri"
            ) from cause

    @property
    def said(self) -> str:
        """The last words of the tracker, on one line, without secrets."""
        if self.fault is None:
            return ""
        lines = self.tracker.said(self.fault).strip().splitlines() or [type(self.fault).__name__]
        return one_line(without_secrets(lines[0]))[:_MOST_CHARACTERS]

    @property
    def behind(self) -> list[str]:
        """The trials that the tracker does not have as they stand at the study's end."""
        return [status.spec.id for status in self._folder.statuses() if not self._stands(status, closing=True)]

    def caught_up(self, *, closing: bool = False, ending: Ending | None = None) -> bool:
        """Waits until the tracker has all that the folder has now; no longer than `tracking.patience_s` without an answer.

        closing  what is running then is not any more
        ending   what a study has come to, at its end
        """
        with self._change:
            self._asked, self._closing, self._ending = self._asked + 1, closing, ending or self._ending
            wanted = self._asked
            if self.fault is None:
                self._answered_at = time.monotonic()
            self._change.notify_all()
            while self._served < wanted and self._thread.is_alive():
                if time.monotonic() - self._answered_at > self._study.tracking.patience_s:
                    return False
                self._change.wait(0.2)
            return self._served >= wanted

    def leave(self) -> None:
        """Lets the thread end as soon as the tracker lets go of it; it looks at the folder no more, which may be gone by then."""
        self._left.set()
        with self._change:
            self._change.notify_all()

    # ---- on the thread

    def _run(self) -> None:
        patiently = Retrying(
            retry=retry_if_exception(lambda error: self.tracker.passing(error) or self.opened),
            wait=wait_exponential_jitter(multiplier=0.2, max=5.0),
            stop=stop_when_event_set(self._left),
            sleep=sleep_using_event(self._left),
            before_sleep=self._note,
            reraise=True,
        )
        try:
            while not self._left.is_set():
                with self._change:
                    looks_every_s = _LOOKS_EVERY_S if self.opened else 0
                    self._change.wait_for(lambda: self._asked > self._served or self._left.is_set(), looks_every_s)
                    asked, closing = self._asked, self._closing
                if self._left.is_set():
                    return
                patiently(self.bring_up_to_date, closing)
                self._answered()
                with self._change:
                    self._served = asked
                    self._change.notify_all()
        except Exception as error:  # whatever a tracking server does, the study goes on
            self.fault = error
        finally:
            with self._change:
                self._change.notify_all()

    def _note(self, state: RetryCallState) -> None:
        with self._change:
            self.fault = state.outcome.exception() if state.outcome else None
            self._change.notify_all()

    def _answered(self) -> None:
        with self._change:
            self.fault, self._answered_at = None, time.monotonic()
            self._change.notify_all()

    def bring_up_to_date(self, closing: bool) -> None:
        if not self.opened:
            self.tracker.open()
            self._see(self.tracker.runs())
            self.opened = True
            self._answered()
        for trial in self._trials():
            changed = self._folder.changed(trial)
            if self._written.get(trial) == changed and not (closing and self._states.get(trial) == "running"):
                continue  # unread: a study may have thousands
            status = self._folder.status(trial)
            if status is None:
                continue
            self._states[trial] = status.state
            if closing or self._due(trial, status):
                self._write(status, closing)
                self._written[trial] = changed
        if closing or self._ending is not None:
            self._put_right(closing)
        self._show_overview(closing)

    def _trials(self) -> list[str]:
        return sorted(path.parent.name for path in self._folder.root.glob("trials/*/status.json"))

    def _due(self, trial: str, status: TrialStatus) -> bool:
        """A long trial reaches MLflow in parts of several epochs: one by one, they would cost it a core for seconds."""
        if status.state != "running" or trial not in self._runs:
            return True
        return len(self._folder.times(trial)) >= self._epochs.get(trial, 0)

    def _stands(self, status: TrialStatus, closing: bool) -> bool:
        """Whether the tracker has the trial, in its present life, to its end."""
        known = self._known.get(status.spec.id)
        if known is None or known.state != end_of(status, closing):
            return False
        return known.identity == self._folder.identity(status.spec.id)

    def _write(self, status: TrialStatus, closing: bool) -> None:
        trial = status.spec.id
        if self._stands(status, closing):
            self._folder.write_run_id(trial, self.tracker.name, self._known[trial].run)
            return
        try:
            try:
                self._write_run(status, closing)
            except Exception as error:
                if self.tracker.passing(error):
                    raise
                self._runs.pop(trial, None)  # it may have been deleted there, or the study's place
                self.tracker.open()
                self._write_run(status, closing)
        except Exception as error:
            self._runs.pop(trial, None)  # what of it has arrived is for the tracker to say
            if self.tracker.passing(error):
                raise
            self.refused[trial] = error
        else:
            self.refused.pop(trial, None)

    def _write_run(self, status: TrialStatus, closing: bool) -> None:
        spec, trial = status.spec, status.spec.id
        about, records, times = self._folder.about(trial), self._folder.records(trial), self._folder.times(trial)
        if trial not in self._runs:
            self._known.pop(trial, None)
            run = self.tracker.run_of(spec, self._folder.identity(trial))
            self._folder.write_run_id(trial, self.tracker.name, run.run_id)
            self._runs[trial] = run
        run = self._runs[trial]
        run.describe(about, spec, self._commit)
        run.log_epochs(records, times, self._answered)
        self._answered()
        self._epochs[trial] = (len(records) // run.every + 1) * run.every
        if status.state != "running" or closing:
            run.finish(status, records, trial_export(self._folder, status))
            self._runs.pop(trial)
            identity, state = self._folder.identity(trial), end_of(status, closing)
            self._known[trial] = KnownRun(run.run_id, trial, identity, state)
            self._answered()

    def _put_right(self, closing: bool) -> None:
        """What was deleted in the tracker is written anew, and at closing, what is not the study's goes: runs under the name of
        a trial that were left by a call that was carried out after it was given up."""
        self.tracker.open()
        runs = list(self.tracker.runs())
        self._see(runs)
        for trial in self._trials():
            status = self._folder.status(trial)
            if status and (closing or status.state != "running") and not self._stands(status, closing):
                self._write(status, closing)
        own = {self._folder.run_id(trial, self.tracker.name) for trial in self._trials()}
        for run in runs if closing else ():
            if run.run not in own:
                self.tracker.remove(run.run)

    def _see(self, runs: Iterable[KnownRun]) -> None:
        """Which trials have a run that has ended; of several, the one that the folder names."""
        self._known, own = {}, set(self._trials())
        for run in runs:
            if run.trial not in own or run.state is None:
                continue
            if run.trial not in self._known or run.run == self._folder.run_id(run.trial, self.tracker.name):
                self._known[run.trial] = run

    def _show_overview(self, closing: bool) -> None:
        """The study as a whole, where any trial has started or ended since, and at its end."""
        states, ending, started = dict(self._states), self._ending, time.monotonic()
        waits = states == self._shown or started < self._overview_at
        if ending is None and (self._finished or (waits and not closing)):
            return
        try:
            if ending is None:
                self.tracker.show(interrupted=closing)
            else:
                self.notes = self.tracker.finish(ending)
        except Exception as error:
            if self.tracker.passing(error):
                raise
            self.refused[_OVERVIEW] = error
        else:
            self.refused.pop(_OVERVIEW, None)
        took = time.monotonic() - started
        self._overview_at = started + (_LARGE_OVERVIEW_WAITS * took if took > 1 else 0)
        self._shown, self._finished = states, self._finished or ending is not None
        with self._change:
            if self._ending is ending:  # else the study has ended meanwhile, which the next look writes
                self._ending = None
        self._answered()


def end_of(status: TrialStatus, closing: bool) -> str:
    """Tells how a trial's run ends in the tracker."""
    return "interrupted" if closing and status.state == "running" else status.state


@contextmanager
def mirrored(study: StudyConfig, console: Console) -> Iterator[TrackerSync]:
    """Has the study's tracker follow its folder inside; at the end it has a bounded time to catch up, and a line says if not.

    Raises StudyError where the tracker can never answer: another kind of file, an address that is refused.
    """
    mirror = TrackerSync(study)
    title, where = mirror.tracker.title, mirror.tracker.where
    if mirror.tracker.notice:
        say(console, mirror.tracker.notice)
    mirror.start()
    if not mirror.opened and (mirror.fault or not mirror.tracker.local):
        said = mirror.said or "no answer yet"
        say(console, f"{title} is away ({where}: {said}); the study goes on, and it gets the trials once it answers")
    try:
        yield mirror
    finally:
        try:
            done = mirror.caught_up(closing=True)
        finally:
            mirror.leave()
        if not done:
            count = len(mirror.behind)
            behind = f"{count} trial{'s' if count > 1 else ''}" if count else "what came last"
            say(
                console,
                f"{title} is behind by {behind} ({where}: {mirror.said or 'no answer'}); they are "
                f"kept in {StudyFolder.of(study).root}, and `{StudyFolder.of(study).resume}` writes them once it answers",
            )
        for words in mirror.notes:
            say(console, words, "yellow")
        for name, error in mirror.refused.items():
            what = name if name == _OVERVIEW else f"trial {name}"
            say(console, f"{title} refuses {what}: {one_line(str(error))[:_MOST_CHARACTERS]}", "red")
