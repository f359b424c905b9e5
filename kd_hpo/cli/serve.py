"""Commands that open pages in a browser: ui."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cyclopts import Parameter

from kd_hpo.cli.console import Runs, err, out, study_name
from kd_hpo.cli.servers import LOOPBACK, Server, serve

_PATIENCE_S = 5.0
_EXTRA = "pip install 'kd_hpo[dashboards]'"
_PYTHON = (sys.executable, "-m")
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
"""Of a host, or its address in four numbers."""


def ui(
    study: str | None = None,
    /,
    *,
    runs: Runs = Path("runs"),
    tracking_uri: str | None = None,
    host: str = LOOPBACK,
    port: int = 5000,
    dashboard_port: int = 5001,
    optuna_port: int = 5002,
    optuna: Annotated[bool | None, Parameter(negative="--no-optuna")] = None,
    allowed_host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    write: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Open studies in a browser: MLflow, the dashboard and Optuna's own, on this machine only unless --host says else.

    The pages are read-only, and refuse (403) what another site's page in the same browser asks of them.

    Parameters
    ----------
    study
        Which one the dashboards open at; the one whose search was written to last if not given.
    runs
        The folder that holds the studies.
    tracking_uri
        An MLflow server, http://..., whose studies the dashboard shows; none is started here then. If not given, the server
        that STUDY is tracked on, its own or that of MLFLOW_TRACKING_URI, else the database in the folder.
    host
        Where the dashboard listens, such as 0.0.0.0 in a container; MLflow and Optuna's own stay on 127.0.0.1.
    port
        Where MLflow listens on 127.0.0.1.
    dashboard_port
        Where the dashboard listens on --host.
    optuna_port
        Where Optuna's own dashboard listens on 127.0.0.1.
    optuna
        Whether to start Optuna's own dashboard; if not given, where it is installed, a study has a search and the dashboard
        is for this machine only.
    allowed_host
        A further name by which a browser reaches the pages, such as a proxy's, kd.example.org; may be given again. Without it
        they answer to localhost and 127.0.0.1, and the dashboard to --host, this machine's name and addresses in numbers.
    write
        Let the pages of MLflow and Optuna change what they show: delete, rename, comment. A running study may not survive it.
    """
    from kd_hpo.errors import StudyError
    from kd_hpo.study.environment import prepare_environment, require_free_port

    root = runs.absolute()
    local = host in (LOOPBACK, "localhost")
    remote = _server(tracking_uri, root, study)
    database = root / "mlflow.db"
    if remote is None and not database.is_file():
        raise StudyError(
            f"there is no {database}; run a study first, give its folder with --runs, or an MLflow server with --tracking-uri"
        )
    if wrong := [name for name in allowed_host if not _NAME.fullmatch(name)]:
        raise StudyError(f"--allowed-host takes a name alone, as kd.example.org, no address with http:// or a port: {wrong[0]!r}")
    if missing := [name for name in ("streamlit", "plotly") if find_spec(name) is None]:
        raise StudyError(f"the dashboard needs {' and '.join(missing)}: {_EXTRA}")
    journal = _journal(root, study, required=optuna is True) if optuna or (optuna is None and local) else None
    options = ({} if remote else {"--port": port}) | {"--dashboard-port": dashboard_port}
    options |= {"--optuna-port": optuna_port} if journal else {}
    for option, given in options.items():
        require_free_port(given, option, host if option == "--dashboard-port" else LOOPBACK)
    if len(set(options.values())) < len(options):
        raise StudyError(f"{' and '.join(f'{o} {p}' for o, p in options.items())} must all differ")
    prepare_environment()
    may = [f"--allowed-host={name}" for name in allowed_host]
    changes = [*may, "--write"] if write else may
    mlflow = None if remote else _mlflow(database, port, study, changes)
    own = _optuna(journal, optuna_port, changes) if journal else None
    address = remote[1] if remote else f"http://{LOOPBACK}:{port}"
    links = {"MLFLOW_TRACKING_URI": remote[0] if remote else f"sqlite:///{database}"}
    links["KD_HPO_MLFLOW_URL"] = os.environ.get("KD_HPO_MLFLOW_URL", address)  # in a container it has another one for a browser
    if own:
        links["KD_HPO_OPTUNA_URL"] = own.address
    servers = [each for each in (_dashboard(host, dashboard_port, study, links, may), mlflow, own) if each]
    if not local:
        err.print(f"warning: the dashboard listens on {host}, port {dashboard_port}; whoever reaches that can read every study")
    if remote:
        out.print(f"MLflow: {remote[1]} (not started here)")
        if reason := _silent(remote[1]):
            err.print(f"warning: {remote[1]} does not answer ({reason}); the pages say so until it does")
    out.print(f"starting {', '.join(server.name for server in servers)} ...")
    serve(servers, out.print)


def _server(given: str | None, root: Path, study: str | None) -> tuple[str, str] | None:
    """The URI of the MLflow server that has the studies, and its address for a person; None for the database of the folder.

    Raises StudyError for a study that is not there, or a URI that is no server's.
    """
    from pydantic import ValidationError

    from kd_hpo.config.study import Tracking
    from kd_hpo.errors import StudyError
    from kd_hpo.study.store.folder import StudyFolder
    from kd_hpo.study.tracking.uri import given_uri, resolved, server_address

    name = None if study is None else study_name(study)
    if given is None:
        shown = StudyFolder(root / name).read_settings() if name else None
        uri = None if name is None and (root / "mlflow.db").is_file() else given_uri(shown)
    else:
        try:
            uri = resolved(Tracking(uri=given).uri or "")
        except ValidationError as error:
            raise StudyError(f"--tracking-uri is refused: {error.errors()[0]['msg']}") from None
    address = server_address(uri)
    if given is not None and address is None:
        raise StudyError("--tracking-uri takes the address of an MLflow server, http://... or https://...")
    return (uri, address) if uri and address else None


def _silent(address: str) -> str | None:
    """Why nothing answers there; None where something does, even if only to ask who this is."""
    try:
        with urlopen(f"{address}/health", timeout=_PATIENCE_S):
            return None
    except HTTPError:
        return None
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", None) or error)


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


def _mlflow(database: Path, port: int, study: str | None, options: Sequence[str]) -> Server:
    address = f"http://{LOOPBACK}:{port}"
    command = [*_PYTHON, "kd_hpo.dashboards.mlflow_own", str(database), *options, "--host", LOOPBACK, "--port", str(port)]
    return Server("MLflow", command, port, address, opens=partial(_trials_page, address, study))


def _trials_page(mlflow: str, study: str | None) -> str:
    """Where MLflow shows the trials, best first: of the study, or of the newest one; its list where it has none yet.

    From the list, a click on a name opens the pages for generative AI, whatever the list was opened with.
    """
    from kd_hpo.study.tracking.links import EXPERIMENTS_LINK, best_first_link

    named = f"tags.`kd.study` = '{study}'" if study else "tags.`kd.study` LIKE '%'"
    asked = {"max_results": 1, "order_by": ["creation_time DESC"], "filter": named}
    url, head = f"{mlflow}/api/2.0/mlflow/experiments/search", {"Content-Type": "application/json"}
    try:
        with urlopen(Request(url, json.dumps(asked).encode(), head), timeout=4 * _PATIENCE_S) as answer:
            (newest,) = json.load(answer)["experiments"]
    except (OSError, HTTPException, ValueError, KeyError):
        return f"{mlflow}/{EXPERIMENTS_LINK}"
    return f"{mlflow}/{best_first_link(newest['experiment_id'])}"


def _dashboard(host: str, port: int, study: str | None, links: Mapping[str, str], options: Sequence[str]) -> Server:
    shown = LOOPBACK if host in ("0.0.0.0", "::") else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/" + (f"?study={study}" if study else "")
    given = [*(("--study", study) if study else ()), *options, "--host", host, "--port", str(port)]
    return Server("dashboard", [*_PYTHON, "kd_hpo.dashboards", *given], port, address, links, shown)


def _optuna(journal: Path, port: int, options: Sequence[str]) -> Server:
    command = [*_PYTHON, "kd_hpo.dashboards.optuna_own", str(journal), *options, "--port", str(port)]
    return Server(f"Optuna's dashboard, study {journal.parent.name}", command, port, f"http://{LOOPBACK}:{port}/dashboard")
