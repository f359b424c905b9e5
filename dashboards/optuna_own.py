"""Serves Optuna's own dashboard on 127.0.0.1: python -m kd_hpo.dashboards.optuna_own runs/digits/optuna.log --port 5002"""

import argparse
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import run_server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_hpo.dashboards.optuna_own", description=__doc__)
    parser.add_argument("journal", type=Path, help="a study's optuna.log")
    parser.add_argument("--port", type=int, default=5002)
    given = parser.parse_args()
    run_server(JournalStorage(JournalFileBackend(str(given.journal))), host="127.0.0.1", port=given.port)


if __name__ == "__main__":
    main()
