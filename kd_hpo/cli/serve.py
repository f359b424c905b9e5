"""Commands that open pages in a browser: ui."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kd_hpo.cli.console import Runs, out, study_name
from kd_hpo.cli.servers import Server, serve

_EXTRA = "pip install 'kd_hpo[dashboards]'"


def ui(
    study: str | None = None,
    /,
    *,
    runs: Runs = Path("runs"),
    port: int = 5000,
    dashboard_port: int = 5001,
    optuna_port: int = 5002,
    optuna: Annotated[bool | None, Parameter(negative="--no-optuna")] = None,
) -> None:
    """Open the studies of this folder in a browser: MLflow, the dashboard and Optuna's own, on this machine only.

    Parameters
    ----------
    study
        Which one the dashboards open at; the one whose search was written to last if not given.
    runs
        The folder that holds the studies.
    port
        Where MLflow listens on 127.0.0.1.
    dashboard_port
        Where the dashboard does.
    optuna_port
        Where Optuna's own dashboard does.
    optuna
        Whether to start Optuna's own dashboard; if not given, where it is installed and a study has a search.
    """
    from kd_hpo.errors import StudyError
    from kd_hpo.study.environment import prepare_environment, require_free_port
    from kd_hpo.study.folder import StudyFolder

    root = runs.absolute()
    database = root / "mlflow.db"
    if not database.is_file():
        raise StudyError(f"there is no {database}; run a study first, or give its folder with --runs")
    if study is not None:
        StudyFolder(root / study_name(study)).read_settings()
    if missing := [name for name in ("streamlit", "plotly", "dashboards") if find_spec(name) is None]:
        raise StudyError(f"the dashboard needs {' and '.join(missing)}: {_EXTRA}")
    journal = None if optuna is False else _journal(root, study, required=optuna is True)
    options = {"--port": port, "--dashboard-port": dashboard_port} | ({"--optuna-port": optuna_port} if journal else {})
    for option, given in options.items():
        require_free_port(given, option)
    if len(set(options.values())) < len(options):
        raise StudyError(f"{' and '.join(f'{o} {p}' for o, p in options.items())} must all differ")
    prepare_environment()
    servers = _servers(database, port, dashboard_port, optuna_port, study, journal)
    out.print(f"starting {', '.join(server.name for server in servers)} ...")
    serve(servers, out.print)


def _journal(root: Path, study: str | None, *, required: bool) -> Path | None:
    """Optuna's journal of the study, or of the one that was written to last."""
    from kd_hpo.errors import StudyError

    if find_spec("optuna_dashboard") is None:
        if required:
            raise StudyError(f"Optuna's dashboard is not installed: {_EXTRA}")
        return None
    journals = sorted(root.glob(f"{study or '*'}/optuna.log"), key=lambda path: path.stat().st_mtime)
    if not journals and required:
        raise StudyError(f"{study or 'no study'} in {root} has a search that Optuna could show; leave out --optuna")
    return journals[-1] if journals else None


def _servers(
    database: Path, port: int, dashboard_port: int, optuna_port: int, study: str | None, journal: Path | None
) -> list[Server]:
    store, here = f"sqlite:///{database}", "http://127.0.0.1"
    python = [sys.executable, "-m"]
    mlflow = Server(
        "MLflow",
        [*python, "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store],
        port,
        f"{here}:{port}/#/experiments?workflowType=machine_learning",
        {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    links = {"MLFLOW_TRACKING_URI": store, "KD_HPO_MLFLOW_URL": f"{here}:{port}"}
    if journal:
        links |= {"KD_HPO_OPTUNA_URL": f"{here}:{optuna_port}/dashboard"}
    dashboard = Server(
        "dashboard",
        [*python, "dashboards", "--port", str(dashboard_port)],
        dashboard_port,
        f"{here}:{dashboard_port}/" + (f"?study={study}" if study else ""),
        links,
    )
    if journal is None:
        return [dashboard, mlflow]
    optuna = Server(
        f"Optuna's dashboard, study {journal.parent.name}",
        [*python, "dashboards.optuna_own", str(journal), "--port", str(optuna_port)],
        optuna_port,
        f"{here}:{optuna_port}/dashboard",
    )
    return [dashboard, mlflow, optuna]
