"""The contract of trackers, of MLflow and of one that is no more than the protocol; and which one a study has."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from kd_hpo.config.study import StudyConfig, Tracking
from kd_hpo.errors import ConfigError
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.tracking.mlflow_tracker import MlflowTracker
from kd_hpo.study.tracking.runs import all_runs, open_experiment
from kd_hpo.study.tracking.tracker import TRACKERS, tracker_of
from kd_hpo.study.tracking.uri import tracking_uri
from kd_hpo.testing.tracker import StoredRun, TrackerContract
from tests.conftest import digits_study
from tests.study.tracking.in_memory import STORE, InMemoryTracker


class TestMlflow(TrackerContract):
    tracker = MlflowTracker

    @pytest.fixture(autouse=True)
    def database_of_its_own(self, tmp_path: Path, database: Path) -> None:
        shutil.copy(database, tmp_path / "mlflow.db")

    def stored(self, study: StudyConfig) -> list[StoredRun]:
        client, found = MlflowClient(tracking_uri(study)), []
        for run in all_runs(client, open_experiment(study)):
            if run.data.tags["kd.kind"] != "summary":
                state = run.data.tags["kd.state"] if run.info.status != "RUNNING" else None
                points = client.get_metric_history(run.info.run_id, "val/accuracy")
                accuracies = tuple(sorted((point.step, point.value) for point in points))
                found.append(StoredRun(run.data.tags["kd.trial"], state, accuracies))
        return sorted(found, key=lambda run: run.trial)


class TestInMemory(TrackerContract):
    tracker = InMemoryTracker

    def stored(self, study: StudyConfig) -> list[StoredRun]:
        found = []
        for kept in STORE[StudyFolder.of(study).identity()].values():
            accuracies = tuple((epoch, kept.epochs[epoch].metrics["val/accuracy"]) for epoch in sorted(kept.epochs))
            found.append(StoredRun(kept.known.trial, kept.known.state, accuracies))
        return sorted(found, key=lambda run: run.trial)


def test_study_has_the_tracker_that_it_names(tmp_path: Path) -> None:
    assert isinstance(tracker_of(digits_study(tmp_path)), MlflowTracker)
    assert isinstance(tracker_of(digits_study(tmp_path, tracking={"kind": TRACKERS["mlflow"]})), MlflowTracker)
    own = digits_study(tmp_path, tracking={"kind": f"{InMemoryTracker.__module__}:InMemoryTracker"})
    assert isinstance(tracker_of(own), InMemoryTracker)
    with pytest.raises(ConfigError, match="no callable 'Nothing'"):
        tracker_of(digits_study(tmp_path, tracking={"kind": f"{InMemoryTracker.__module__}:Nothing"}))
    with pytest.raises(ValueError, match=r"mlflow, or package\.module:callable"):
        Tracking(kind="wandb")


def test_what_keeps_a_tracker_up_to_date_knows_none() -> None:
    """MLflow is imported for a study that is tracked there, by the modules of its tracker alone."""
    told = "import sys, kd_hpo.study.tracking.sync as _; print([name for name in sys.modules if 'mlflow' in name])"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"
