"""Serves MLflow's own pages on 127.0.0.1, by `python -m kd_hpo.dashboards.mlflow_own runs/mlflow.db --port 5000`."""

import argparse
import os
import re
from pathlib import Path

import uvicorn  # before MLflow, which sets up its own checks where it is there

from kd_hpo.dashboards.gate import AsgiGate, Gate, beyond
from kd_hpo.dashboards.options import add_options, gate_of, origins

_THINGS = "experiments|runs|logged-models|model-versions|registered-models|datasets|issues|traces"
_READING = re.compile(
    rf"/graphql|/(ajax-)?api/\d\.0/mlflow/({_THINGS})/(search|search-datasets|get-latest-versions|batchGetInfos|metrics)"
)
"""What MLflow's pages read with POST."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_hpo.dashboards.mlflow_own", description=__doc__)
    parser.add_argument("database", type=Path, help="SQLite, as a study without tracking.uri has it in its runs folder")
    parser.add_argument("--host", default="127.0.0.1", help="beyond loopback, whoever reaches the port sees every study")
    parser.add_argument("--port", type=int, default=5000)
    add_options(parser)
    given = parser.parse_args()
    app = application(given.database, gate_of(given.host, given, only_reads))
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning")


def only_reads(path: str) -> bool:
    """Whether a POST to the path changes nothing."""
    return _READING.fullmatch(path) is not None


def application(database: Path, gate: Gate) -> AsgiGate:
    """Puts MLflow's server, its own checks of Host and Origin included, behind the gate.

    Raises OSError where there is no such file.

    Without `write`, SQLite itself opens the file read-only. Before, it is opened once as a study does: that makes its tables
    where it has none, and takes back what a study that was killed had half written.
    """
    os.environ |= own_checks(gate)
    from mlflow import MlflowClient
    from mlflow.server.fastapi_app import create_fastapi_app
    from mlflow.server.handlers import initialize_backend_stores

    file = database.resolve(strict=True)
    store = f"sqlite:///{file}"
    MlflowClient(store).search_experiments(max_results=1)
    if not gate.write:
        store = f"sqlite:///{file.as_uri()}?mode=ro&uri=true"
    initialize_backend_stores(store, store, (file.parent / "mlflow-artifacts").as_uri())
    return AsgiGate(create_fastapi_app(), gate)


def own_checks(gate: Gate) -> dict[str, str]:
    """The settings of MLflow, whatever the environment says.

    MLflow's own default lets in names that begin as a private address does. Where it listens beyond
    loopback, it is reached by addresses that it has no patterns for; the gate alone looks at Host there.
    """
    names = ("localhost", "127.0.0.1", "[[]::1]", *gate.also)
    patterns = ["*"] if beyond(gate.host) else [pattern for name in names for pattern in (name, f"{name}:*")]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(patterns),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins(gate)),
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    }


if __name__ == "__main__":
    main()
