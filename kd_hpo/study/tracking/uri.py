"""The URI of a study's MLflow.

What opens it stays in the environment, and out of all that is written and told.
"""

import os
import re
from urllib.parse import urlsplit

from kd_hpo.config.study import VARIABLE, StudyConfig
from kd_hpo.errors import StudyError, without_secrets

NAME = "mlflow"
"""What the study's folder keeps the ids of MLflow's runs under."""
FOLLOWED = "MLFLOW_TRACKING_URI"
"""The variable of the environment that names MLflow for a study that does not."""


def tracking_uri(study: StudyConfig) -> str:
    """The URI of a study's MLflow, for MLflow alone: the variables in it are replaced.

    Raises StudyError for one that is not set, and where a folder stands in the place of the database.
    """
    if given := given_uri(study):
        return given
    database = study.runs / "mlflow.db"
    if database.is_dir():
        raise StudyError(f"{database} is a folder, and MLflow's database is a file of that name; move the folder elsewhere")
    return f"sqlite:///{database}"


def given_uri(study: StudyConfig | None) -> str | None:
    """The URI that the study or the environment names, with its variables in their places.

    None for the database of the runs folder. Raises StudyError for a variable that is not set.
    """
    if study is not None and study.tracking.uri is not None:
        return resolved(study.tracking.uri)
    return os.environ.get(FOLLOWED) or None


def follows_environment(study: StudyConfig) -> bool:
    return study.tracking.uri is None and given_uri(study) is not None


def told_uri(study: StudyConfig) -> str:
    """The URI as messages have it: without secrets, and the variables of a study's own URI unread."""
    own = study.tracking.uri or without_secrets(given_uri(study) or str(study.runs / "mlflow.db"))
    return f"{own}, which {FOLLOWED} names" if follows_environment(study) else own


def resolved(uri: str) -> str:
    """The URI with the variables of the environment in their places. Raises StudyError for one that is not set."""
    return re.sub(VARIABLE, lambda found: _variable(found[1]), uri)


def _variable(name: str) -> str:
    if name not in os.environ:
        raise StudyError(f"tracking.uri names the environment variable {name}, which is not set here; export {name}=...")
    return os.environ[name]


def server_address(uri: str | None) -> str | None:
    """The address where a person finds the tracking server at this URI; None where `kd-hpo ui` serves what is tracked there."""
    parts = urlsplit(uri or "")
    if parts.scheme not in ("http", "https"):
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
