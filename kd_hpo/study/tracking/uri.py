"""Where a study's MLflow is. What opens it stays in the environment, and out of all that is written and told."""

import os
import re
from urllib.parse import urlsplit

from kd_hpo.config.study import VARIABLE, StudyConfig
from kd_hpo.errors import StudyError


def tracking_uri(study: StudyConfig) -> str:
    """For MLflow alone: the variables in it are replaced. Raises StudyError for one that is not set."""
    if study.tracking.uri is None:
        return f"sqlite:///{study.runs / 'mlflow.db'}"
    return resolved(study.tracking.uri)


def resolved(uri: str) -> str:
    """With the variables of the environment in their places. Raises StudyError for one that is not set."""
    return re.sub(VARIABLE, lambda found: _variable(found[1]), uri)


def _variable(name: str) -> str:
    if name not in os.environ:
        raise StudyError(f"tracking.uri names the environment variable {name}, which is not set here; export {name}=...")
    return os.environ[name]


def server_address(uri: str | None) -> str | None:
    """Where a person finds the tracking server of this `tracking.uri`; None where `kd-hpo ui` serves what is tracked there."""
    parts = urlsplit(resolved(uri or ""))
    if parts.scheme not in ("http", "https"):
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
