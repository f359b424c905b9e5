"""MLflow as a study's tracker: an experiment is the study, its runs are the trials and one summary."""

import sqlite3
from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import DBAPIError, OperationalError

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from kd_hpo.study.tracking.links import best_first_tag
from kd_hpo.study.tracking.overview import finish_overview, write_overview
from kd_hpo.study.tracking.runs import RunLog, all_runs, experiment_link, open_experiment
from kd_hpo.study.tracking.tags import trial_tags
from kd_hpo.study.tracking.tracker import Ending, KnownRun
from kd_hpo.study.tracking.uri import NAME, follows_environment, given_uri, told_uri, tracking_uri

_KINDS = ("search", "race", "compare")


class MlflowTracker:
    """A tracker that is MLflow; its methods are those of kd_hpo.study.tracking.tracker.Tracker."""

    name, title = NAME, "MLflow"

    def __init__(self, study: StudyConfig) -> None:
        self._study, self._folder = study, StudyFolder.of(study)
        self._experiment: str | None = None
        """None until MLflow has answered."""
        self._view_in: str | None = None
        """The experiment that has the saved view."""

    @property
    def where(self) -> str:
        return told_uri(self._study)

    @property
    def local(self) -> bool:
        return given_uri(self._study) is None

    @property
    def notice(self) -> str:
        if not follows_environment(self._study):
            return ""
        return f"MLflow is at {self.where}; give tracking.uri for another place"

    @property
    def link(self) -> str:
        return experiment_link(self._study, self._experiment)

    def open(self) -> None:
        self._experiment = open_experiment(self._study)

    def runs(self) -> Iterator[KnownRun]:
        for run in all_runs(self._client, self._opened):
            tags, ended = run.data.tags, run.info.status != "RUNNING"
            if tags.get("kd.kind") in _KINDS:
                state = tags.get("kd.state") if ended else None
                yield KnownRun(run.info.run_id, tags.get("kd.trial", ""), tags.get("kd.identity", ""), state)

    def run_of(self, spec: TrialSpec, identity: str) -> RunLog:
        tags = trial_tags(self._study, spec)
        goal, log = self._study.task.goal, self._folder.log(spec.id)
        return RunLog.find_or_create(self._client, self._opened, spec.id, identity, tags, goal, log)

    def remove(self, run_id: str) -> None:
        self._client.delete_run(run_id)

    def show(self, *, interrupted: bool) -> None:
        self._save_view()
        write_overview(self._study, self._opened, self._folder, "KILLED" if interrupted else "RUNNING")

    def finish(self, ending: Ending) -> list[str]:
        self._save_view()
        return finish_overview(self._study, self._opened, self._folder, ending)

    def passing(self, error: BaseException) -> bool:
        """Whether MLflow is only away, busy or slow, its database locked or its disk full."""
        if isinstance(error, MlflowException):
            status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
            return status >= 500 or status in (408, 429)
        return isinstance(error, (OperationalError, RequestException, OSError))

    def said(self, error: BaseException) -> str:
        """Tells what the error says: of a connection or a file, what the system or SQLite said."""
        chain = [error]
        while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(before)
        causes = (each.orig if isinstance(each, DBAPIError) else each for each in reversed(chain))
        return str(next((each for each in causes if isinstance(each, (OSError, sqlite3.Error))), error))

    @property
    def _client(self) -> MlflowClient:
        return MlflowClient(tracking_uri(self._study))

    @property
    def _opened(self) -> str:
        if self._experiment is None:
            self.open()
        assert self._experiment is not None
        return self._experiment

    def _save_view(self) -> None:
        if self._view_in != self._opened:
            self._client.set_experiment_tag(self._opened, *best_first_tag(self._study.goal, self._study.task.goal))
            self._view_in = self._opened
