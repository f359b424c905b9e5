"""A study with an MLflow database of its own, for any test that wants one: import both fixtures into a conftest."""

import shutil
from pathlib import Path

import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.tracking.runs import open_experiment
from tests.conftest import digits_study


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: to make one takes seconds, so tests take copies."""
    runs = tmp_path_factory.mktemp("database")
    open_experiment(digits_study(runs, name="template"))
    return runs / "mlflow.db"


@pytest.fixture
def tracked(tmp_path: Path, database: Path) -> StudyConfig:
    """A study that has a database of its own."""
    shutil.copy(database, tmp_path / "mlflow.db")
    return digits_study(tmp_path)
