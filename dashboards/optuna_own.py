"""Serves Optuna's own dashboard on 127.0.0.1, by `python -m kd_hpo.dashboards.optuna_own runs/digits/optuna.log --port 5002`."""

import argparse
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna_dashboard import wsgi

from kd_hpo.dashboards.gate import Gate, Wsgi, wsgi_gate
from kd_hpo.dashboards.options import add_options, gate_of

HOST = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_hpo.dashboards.optuna_own", description=__doc__)
    parser.add_argument("journal", type=Path, help="a study's optuna.log")
    parser.add_argument("--port", type=int, default=5002)
    add_options(parser)
    given = parser.parse_args()
    with make_server(HOST, given.port, application(given.journal, gate_of(HOST, given)), server_class=Threads) as server:
        server.serve_forever()


class Threads(ThreadingMixIn, WSGIServer):
    """A server with a thread for each connection, so that one that a browser keeps open holds up no other."""

    daemon_threads = True


def application(path: Path, gate: Gate) -> Wsgi:
    """Puts Optuna's dashboard on a journal behind the gate. Raises OSError where there is no such file."""
    file: BaseJournalBackend = JournalFileBackend(str(path.resolve(strict=True)))
    return wsgi_gate(wsgi(JournalStorage(file if gate.write else ReadOnly(file))), gate)


class ReadOnly(BaseJournalBackend):
    """A journal that is only read: whatever asks, nothing reaches the file that a study writes to."""

    def __init__(self, file: BaseJournalBackend) -> None:
        self._file = file

    def read_logs(self, log_number_from: int) -> Any:
        return self._file.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("the journal is opened read-only")


if __name__ == "__main__":
    main()
