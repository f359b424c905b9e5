"""Reads MLflow into data frames, and writes nothing to it.

An experiment with the tag kd.study is a study; its runs are trials and one summary.
"""

import functools
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from kd_hpo.config.study import Search
from kd_hpo.config.task import Classification, Goal
from kd_hpo.config.wording import one_line
from kd_hpo.dashboards.words import without_credentials
from kd_hpo.study.report.words import shorten
from kd_hpo.study.tracking.runs import MATRIX_SECTION
from kd_hpo.study.tracking.tags import goal_of

UNREADABLE = (MlflowException, SQLAlchemyError, OSError, ValueError)
"""What reading MLflow raises where it is not there, or what stands there is not a study's."""
COLUMNS = {
    "kind": "search, race or compare",
    "method": "",
    "seed": "",
    "state": "running, completed, stopped (by the scheduler), failed or interrupted",
    "score": "the task's metric on val, after the last epoch that is logged",
    "epoch": "the last one",
    "started": "",
    "reported": "when the last epoch was logged",
    "ended": "",
    "has_matrix": "whether it has pair weights",
    "learns": "whether it learns them",
    "note": "in words",
    "run": "MLflow's id",
}
"""Of StudyRuns.trials; the index is the trial's name."""
_STATES = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running", "SCHEDULED": "running"}
_ENDED = ("FINISHED", "FAILED", "KILLED")
_LEARNING = Search().method
"""The method that learns lambda, where an earlier version of kd_hpo has not logged how a trial's pairs were weighted."""
_STUDY = "kd.study"
_SLACK_MS = 60_000
"""Clocks of several machines may differ by this much."""


@dataclass(frozen=True)
class StudyRuns:
    """A study as MLflow has it now."""

    name: str
    """As its file and its commands have it; MLflow may know it by a longer name."""
    experiment: str
    trials: pd.DataFrame
    settings: pd.DataFrame
    """The outer settings of each trial, a column a dotted path; numbers where all are numbers."""
    summary: str | None
    """The run of the study itself; it has the comparison once that has ended."""
    ended: bool
    goal: Goal
    """The task's metric, which the trials' scores are of, and which way of it is better."""

    @property
    def running(self) -> bool:
        return bool((self.trials["state"] == "running").any())

    def searched(self, method: str) -> pd.DataFrame:
        """The trials of a method's search."""
        return self.trials[(self.trials["kind"] == "search") & (self.trials["method"] == method)]

    def best_first(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Sorts trials, the best first; those without a score come last."""
        return trials.sort_values("score", ascending=self.goal.mode == "min")


@dataclass
class _Known:
    """What was read of one experiment; a trial that has ended stays as it is."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    since: int | None = None
    """Of the last reading, in MLflow's milliseconds."""
    study: StudyRuns | None = None
    """What the rows come to, until one changes."""


class Tracking:
    """MLflow at one address. Safe to use from several threads, as the sessions of a browser are."""

    def __init__(self, uri: str) -> None:
        """Raises one of UNREADABLE where MLflow is not there."""
        require_database(uri)
        self.uri = uri
        self.client = MlflowClient(uri)
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def studies(self) -> dict[str, Experiment]:
        """All studies by MLflow's names of them, which are unique, the newest first."""
        found = self.client.search_experiments(order_by=["creation_time DESC"], max_results=1000)
        return {each.name: each for each in found if _STUDY in each.tags}

    def read(self, study: Experiment) -> StudyRuns:
        """Reads a study, and asks only for what may have changed: 1,000 trials take MLflow seconds, a few none."""
        experiment = str(study.experiment_id)
        with self._lock:
            known = self._known.setdefault(experiment, _Known())
            now = int(time.time() * 1000)
            found = {run.info.run_id: run for query in self._changed(known) for run in self._search(experiment, query)}
            rows = known.rows | {run_id: _row(run) for run_id, run in found.items()}
            for run in self._unfinished(known, found):
                if run.info.lifecycle_stage == LifecycleStage.ACTIVE:
                    rows[run.info.run_id] = _row(run)
                else:
                    del rows[run.info.run_id]
            if known.study is None or rows != known.rows:
                known.study = _study(study.tags[_STUDY], experiment, list(rows.values()))
            known.rows, known.since = rows, now
            return known.study

    def forget(self) -> None:
        """Forgets what was read: the next reading reads everything, and deleted runs go."""
        with self._lock:
            self._known.clear()

    def _changed(self, known: _Known) -> list[str]:
        if known.since is None:
            return [""]
        ended = f"attributes.end_time > {known.since - _SLACK_MS}"
        return ["attributes.status = 'RUNNING'", ended]

    def _unfinished(self, known: _Known, found: Mapping[str, Run]) -> list[Run]:
        """Runs that were on their way and are no more: deleted, or ended by a clock that is far from this one."""
        gone = [run_id for run_id, row in known.rows.items() if row["on_its_way"] and run_id not in found]
        return [self.client.get_run(run_id) for run_id in gone]

    def _search(self, experiment: str, query: str) -> list[Run]:
        found: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs([experiment], query, max_results=5000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def artifact(self, run: str, name: str) -> str | None:
        """The text of a run's file; None where the run has none of that name."""
        if name not in {file.path for file in self.client.list_artifacts(run)}:
            return None
        return Path(self.client.download_artifacts(run, name)).read_text(encoding="utf-8")

    def json_artifact(self, run: str, name: str) -> Any:
        text = self.artifact(run, name)
        return None if text is None else json.loads(text)

    def history(self, run: str, metric: str) -> pd.Series:
        """Reads one metric of a run by epoch; where an epoch was logged twice, as it was logged last."""
        points = sorted(self.client.get_metric_history(run, metric), key=lambda point: (point.step, point.timestamp))
        return pd.Series({point.step: point.value for point in points}, dtype=float)


def require_database(uri: str) -> None:
    """Asks a database once, for seconds (PGCONNECT_TIMEOUT): MLflow asks ten times, for minutes. Raises ConnectionError."""
    if uri.startswith(("http://", "https://", "sqlite:")) or "://" not in uri:
        return
    try:
        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()
    except ModuleNotFoundError as error:
        raise ConnectionError(f"the database's driver is not installed ({error})") from error
    except SQLAlchemyError as error:
        raise ConnectionError(str(getattr(error, "orig", error))) from error


def refusal(uri: str, error: Exception) -> str:
    """Tells a person why MLflow could not be read: a line, without credentials."""
    said = shorten(without_credentials(one_line(str(error))) or type(error).__name__, 400)
    return f"MLflow at {without_credentials(uri)} cannot be read: {said}"


@functools.cache
def tracking(uri: str) -> Tracking:
    """Gives the one Tracking of an address that a process has: what one session has read serves the others."""
    return Tracking(uri)


def _row(run: Run) -> dict[str, Any]:
    tags, params, info = run.data.tags, dict(run.data.params), run.info
    goal = goal_of(tags)
    metric = goal.on("val")
    last = next((each for each in run.data.to_proto().metrics if each.key == metric), None)  # `metrics` has no steps
    method, seed = params.pop("method", tags.get("kd.method", "")), params.pop("seed", None)
    return {
        "trial": tags.get("kd.trial", info.run_name or info.run_id),
        "kind": tags.get("kd.kind", ""),
        "method": tags.get("kd.method", method),
        "seed": int(seed) if seed is not None and seed.lstrip("-").isdigit() else None,
        "state": tags.get("kd.state", _STATES[info.status]),
        "score": last.value if last else None,
        "epoch": last.step if last else None,
        "started": info.start_time,
        "reported": last.timestamp if last else None,
        "ended": info.end_time,
        "has_matrix": any(name.startswith(MATRIX_SECTION + "/") for name in run.data.metrics),
        "learns": tags["kd.weighting"] == "learned" if "kd.weighting" in tags else method == _LEARNING,
        "note": tags.get("mlflow.note.content", ""),
        "run": info.run_id,
        "on_its_way": info.status not in _ENDED,
        "settings": params,
        "goal": goal,
    }


def _study(name: str, experiment: str, rows: list[dict[str, Any]]) -> StudyRuns:
    summary = next((row for row in rows if row["kind"] == "summary"), None)
    rows = sorted((row for row in rows if row["kind"] in ("search", "race", "compare")), key=lambda row: row["started"])
    index = pd.Index([row["trial"] for row in rows], name="trial", dtype=object)
    trials = pd.DataFrame([{column: row[column] for column in COLUMNS} for row in rows], index=index, columns=list(COLUMNS))
    for column in ("started", "reported", "ended"):
        trials[column] = pd.to_datetime(pd.to_numeric(trials[column]), unit="ms", utc=True)
    for column in ("score", "epoch", "seed"):
        trials[column] = pd.to_numeric(trials[column])
    for column in ("has_matrix", "learns"):
        trials[column] = trials[column].astype(bool)
    settings = pd.DataFrame([row["settings"] for row in rows], index=index)
    for column in settings.columns.astype(str):
        numbers = pd.to_numeric(settings[column], errors="coerce")
        if numbers.notna().sum() == settings[column].notna().sum():
            settings[column] = numbers
    keep = ~index.duplicated(keep="last")  # a name is a trial; MLflow may hold a run of it that was made twice
    run, ended = (summary["run"], summary["state"] == "completed") if summary else (None, False)
    goal = rows[-1]["goal"] if rows else Classification.goal
    return StudyRuns(name, experiment, trials[keep], settings[keep], run, ended, goal)
