"""Ray and MLflow at home before any test module imports them, and a database for each test that wants one."""

import shutil
from pathlib import Path

import pytest

from kd_hpo.study.environment import prepare_environment

prepare_environment()

from kd_hpo.config.study import StudyConfig  # noqa: E402
from kd_hpo.study.tracking import open_experiment  # noqa: E402
from tests.conftest import digits_study  # noqa: E402


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
