"""How Ray, MLflow and Optuna are kept quiet and at home: set before any of them is imported."""

import os
import platform
import shutil
import socket
import subprocess

from kd_hpo.errors import StudyError

_DEFAULTS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, the only way to no output at all
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # code of one's own may open a file by its path from where the study was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed before its first epoch has none; the study goes on
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the study's folder is the record, not Ray's snapshots
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # TrackerSync tries again itself
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "5",  # seconds; an MLflow whose database does not answer is away
    "PYTHONWARNINGS": "ignore::FutureWarning",
}


NODE_NAME = "KD_HPO_NODE"
"""Of the cluster's node; set in its processes by kd_hpo itself."""


def prepare_environment() -> None:
    """Sets how Ray, MLflow and Optuna behave; what the user has set stands.

    Whoever gives Ray's token means it to be used, which Ray does not do by itself.
    """
    token = {"RAY_AUTH_MODE": "token"} if os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} else {}
    for name, value in {**_DEFAULTS, **token}.items():
        os.environ.setdefault(name, value)


def machine() -> str:
    """Tells what this machine is called: in a cluster by its node's name, which several of one host do not share."""
    return os.environ.get(NODE_NAME) or platform.node()


def git_commit() -> str:
    """The commit of the current folder; empty outside a repository, or without git."""
    if shutil.which("git") is None:
        return ""
    told = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return told.stdout.strip() if told.returncode == 0 else ""


def require_free_port(port: int, option: str, host: str = "127.0.0.1") -> None:
    """Checks that a server can listen at the port of the host. Raises StudyError where none can."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: only one that listens counts
            listening.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"port {port} of {host} cannot be used ({reason}); give another one with {option}") from error
