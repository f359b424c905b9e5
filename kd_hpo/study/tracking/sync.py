"""Brings MLflow to where a study's folder stands, beside the study: nothing that trains or chooses ever waits for MLflow."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mlflow import MlflowClient
from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import DBAPIError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_when_event_set, wait_exponential_jitter
from tenacity.nap import sleep_using_event

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.wording import one_line
from kd_hpo.errors import StudyError, without_secrets
from kd_hpo.study.matrices.export import trial_export
from kd_hpo.study.store.folder import State, StudyFolder, TrialStatus
from kd_hpo.study.tracking.overview import Ending, finish_overview, write_overview, write_views
from kd_hpo.study.tracking.runs import (
    RunLog,
    all_runs,
    git_commit,
    layers_of,
    open_experiment,
    passing,
    trial_tags,
)
from kd_hpo.study.tracking.saved_views import SavedView
from kd_hpo.study.tracking.uri import tracking_uri

_LOOKS_EVERY_S = 0.5
_FIRST_ANSWER_S = 10.0
_LARGE_OVERVIEW_WAITS = 20
_MOST_CHARACTERS = 200
_OVERVIEW = "the study's overview"


class TrackerSync:
    """Writes to MLflow, on a thread of its own, what its runs lack of the study's folder, in order and once.

    The folder is what waits to be written: while MLflow is away, hangs or is locked, the thread tries again and lags behind,
    and once MLflow answers it catches up. Whatever it was doing when it was cut off it may do again, since a run is known by
    its trial's identity, and an epoch by the time at which it ended.
    """

    def __init__(self, study: StudyConfig, views: Sequence[SavedView] = ()) -> None:
        self.experiment: str | None = None
        """None until MLflow has answered."""
        self.fault: BaseException | None = None
        """What MLflow said last, where it has not answered since."""
        self.refused: dict[str, Exception] = {}
        """Why a trial cannot be written, by its id, or the overview."""
        self.notes: list[str] = []
        """What a person should know of the study's end in MLflow."""
        self._study, self._folder, self._commit = study, StudyFolder.of(study), git_commit()
        self._runs: dict[str, RunLog] = {}
        self._epochs: dict[str, int] = {}
        """How many epochs a running trial has when they are written next."""
        self._states: dict[str, State] = {status.spec.id: status.state for status in self._folder.statuses()}
        going = {trial for trial, state in self._states.items() if state == "running"}  # once it is started again
        self._written: dict[str, tuple[int, ...]] = {trial: self._folder.changed(trial) for trial in going}
        self._known: dict[str, tuple[str | None, str | None]] = {}
        """How runs that have ended stand in MLflow: their trial's identity and state."""
        self._views, self._views_written = views, False
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
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)

    def start(self) -> None:
        """Waits a moment for MLflow's first answer. Raises StudyError where it can never be the right one."""
        self._thread.start()
        until = time.monotonic() + _FIRST_ANSWER_S
        with self._change:
            self._change.wait_for(lambda: self.experiment or self.fault or not self._thread.is_alive(), until - time.monotonic())
        if not self._thread.is_alive() and self.fault is not None:
            if isinstance(self.fault, StudyError):
                raise self.fault
            cause = self.fault if without_secrets(str(self.fault)) == str(self.fault) else None  # a traceback would tell it
            raise StudyError(
                f"MLflow does not work at {self.where}: {self.said}. The study's own folder is kept; see tracking.uri"
            ) from cause

    @property
    def where(self) -> str:
        return self._study.tracking.uri or str(self._study.runs / "mlflow.db")

    @property
    def said(self) -> str:
        """What MLflow said last, on one line: of a connection or a file, what the system or SQLite said."""
        chain = [self.fault] if self.fault else []
        while chain and (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(before)
        causes = (error.orig if isinstance(error, DBAPIError) else error for error in reversed(chain))
        told = next((error for error in causes if isinstance(error, (OSError, sqlite3.Error))), self.fault)
        lines = str(told or "").strip().splitlines() or [type(told).__name__ if told else ""]
        return one_line(without_secrets(lines[0]))[:_MOST_CHARACTERS]

    @property
    def behind(self) -> list[str]:
        """The trials that MLflow does not have as they stand at the study's end."""
        ends = {status.spec.id: mlflow_state(status, closing=True) for status in self._folder.statuses()}
        return [trial for trial, end in ends.items() if self._known.get(trial, (None, None))[1] != end]

    def caught_up(self, *, closing: bool = False, ending: Ending | None = None) -> bool:
        """Waits until MLflow has all that the folder has now; no longer than `tracking.patience_s` without an answer.

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
        """Lets the thread end as soon as MLflow lets go of it; it looks at the folder no more, which may be gone by then."""
        self._left.set()
        with self._change:
            self._change.notify_all()

    # ---- on the thread

    def _run(self) -> None:
        patiently = Retrying(
            retry=retry_if_exception(lambda error: passing(error) or self.experiment is not None),
            wait=wait_exponential_jitter(multiplier=0.2, max=5.0),
            stop=stop_when_event_set(self._left),
            sleep=sleep_using_event(self._left),
            before_sleep=self._note,
            reraise=True,
        )
        try:
            while not self._left.is_set():
                with self._change:
                    looks_every_s = _LOOKS_EVERY_S if self.experiment else 0
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
        if self.experiment is None:
            experiment = open_experiment(self._study)
            client = MlflowClient(tracking_uri(self._study))
            ended = [run.data.tags for run in all_runs(client, experiment) if run.info.status != "RUNNING"]
            self._known = {tags.get("kd.trial", ""): (tags.get("kd.identity"), tags.get("kd.state")) for tags in ended}
            self.experiment = experiment
            self._answered()
        client = MlflowClient(tracking_uri(self._study))
        for trial in self._trials():
            changed = self._folder.changed(trial)
            if self._written.get(trial) == changed and not (closing and self._states.get(trial) == "running"):
                continue  # unread: a study may have thousands
            status = self._folder.status(trial)
            if status is None:
                continue
            self._states[trial] = status.state
            if closing or self._due(trial, status):
                self._write(client, self.experiment, status, closing)
                self._written[trial] = changed
        if closing:
            self._remove_strangers(client, self.experiment)
        self._show_overview(client, self.experiment, closing)

    def _trials(self) -> list[str]:
        return sorted(path.parent.name for path in self._folder.root.glob("trials/*/status.json"))

    def _due(self, trial: str, status: TrialStatus) -> bool:
        """A long trial reaches MLflow in parts of several epochs: one by one, they would cost it a core for seconds."""
        if status.state != "running" or trial not in self._runs:
            return True
        return len(self._folder.times(trial)) >= self._epochs.get(trial, 0)

    def _write(self, client: MlflowClient, experiment: str, status: TrialStatus, closing: bool) -> None:
        trial = status.spec.id
        if self._known.get(trial) == (self._folder.identity(trial), mlflow_state(status, closing)):
            return
        try:
            self._write_run(client, experiment, status, closing)
        except Exception as error:
            self._runs.pop(trial, None)  # what of it has arrived is for MLflow to say
            if passing(error):
                raise
            self.refused[trial] = error
        else:
            self.refused.pop(trial, None)

    def _write_run(self, client: MlflowClient, experiment: str, status: TrialStatus, closing: bool) -> None:
        spec, trial = status.spec, status.spec.id
        about, records, times = self._folder.about(trial), self._folder.records(trial), self._folder.times(trial)
        if trial not in self._runs:
            tags = trial_tags(self._study, spec)
            run = RunLog.find_or_create(client, experiment, trial, self._folder.identity(trial), tags)
            self._folder.write_run_id(trial, "mlflow", run.run_id)
            self._runs[trial] = run
            self._known.pop(trial, None)
        run, layers = self._runs[trial], layers_of(about)
        run.describe(about, spec, self._commit)
        run.log_epochs(records, layers, times, self._answered)
        self._answered()
        self._epochs[trial] = (len(records) // layers.every + 1) * layers.every
        if status.state != "running" or closing:
            run.finish(status, records, layers, trial_export(self._folder, status))
            self._runs.pop(trial)
            self._known[trial] = (self._folder.identity(trial), mlflow_state(status, closing))
            self._answered()

    def _show_overview(self, client: MlflowClient, experiment: str, closing: bool) -> None:
        """The study as a whole, where any trial has started or ended since, and at its end."""
        states, ending, started = dict(self._states), self._ending, time.monotonic()
        waits = states == self._shown or started < self._overview_at
        if ending is None and (self._finished or (waits and not closing)):
            return
        try:
            if not self._views_written:
                write_views(client, experiment, self._views)
                self._views_written = True
            if ending is None:
                write_overview(self._study, experiment, self._folder, self._views, "KILLED" if closing else "RUNNING")
            else:
                self.notes = finish_overview(self._study, experiment, self._folder, self._views, ending)
        except Exception as error:
            if passing(error):
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

    def _remove_strangers(self, client: MlflowClient, experiment: str) -> None:
        """Runs under the name of a trial that is not this one: left by a call that was carried out after it was given up."""
        own = {self._folder.run_id(trial, "mlflow") for trial in self._trials()}
        for run in all_runs(client, experiment):
            if run.data.tags.get("kd.kind") in ("search", "compare") and run.info.run_id not in own:
                client.delete_run(run.info.run_id)


def mlflow_state(status: TrialStatus, closing: bool) -> str:
    return "interrupted" if closing and status.state == "running" else status.state


@contextmanager
def mirrored(study: StudyConfig, console: Console, views: Sequence[SavedView] = ()) -> Iterator[TrackerSync]:
    """MLflow follows the study's folder; at the end it has a bounded time to catch up, and a line says if it has not.

    Raises StudyError where MLflow can never answer: another kind of file, an address that is refused.
    """
    mirror = TrackerSync(study, views)
    mirror.start()
    if mirror.experiment is None and (mirror.fault or study.tracking.uri):
        said = mirror.said or "no answer yet"
        console.print(Text(f"MLflow is away ({mirror.where}: {said}); the study goes on, and it gets the trials once it answers"))
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
            console.print(
                Text(
                    f"MLflow is behind by {behind} ({mirror.where}: {mirror.said or 'no answer'}); they are "
                    f"kept in {StudyFolder.of(study).root}, and `{StudyFolder.of(study).resume}` writes them once it answers"
                )
            )
        for words in mirror.notes:
            console.print(Text(words, style="yellow"))
        for name, error in mirror.refused.items():
            what = name if name == _OVERVIEW else f"trial {name}"
            console.print(Text(f"MLflow refuses {what}: {one_line(str(error))[:_MOST_CHARACTERS]}", style="red"))
