"""Commands that open pages in a browser: ui."""

import os
import sys
from pathlib import Path

from kd_hpo.cli.console import Runs, out


def ui(*, runs: Runs = Path("runs"), port: int = 5000) -> None:
    """Open MLflow on the runs of this folder, on this machine only.

    Parameters
    ----------
    runs
        The folder that holds the studies.
    port
        Where to listen on 127.0.0.1.
    """
    from kd_hpo.errors import StudyError
    from kd_hpo.study.environment import prepare_environment, require_free_port

    database = runs.absolute() / "mlflow.db"
    if not database.is_file():
        raise StudyError(f"there is no {database}; run a study first, or give its folder with --runs")
    require_free_port(port)
    prepare_environment()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    out.print(f"MLflow on http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning (stop it with Ctrl-C)")
    sys.stdout.flush()
    server = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [*server, "--backend-store-uri", f"sqlite:///{database}"])
