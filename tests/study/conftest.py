"""Ray and MLflow at home before any test module imports them, and a database for each test that wants one."""

from kd_hpo.study.environment import prepare_environment

prepare_environment()

from tests.study.databases import database, tracked  # noqa: E402
from tests.study.exports import exported  # noqa: E402

__all__ = ["database", "exported", "tracked"]
