"""`kd-hpo ui`: what it refuses, and that nothing it has started outlives it."""

import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from kd_hpo.cli import serve as module
from kd_hpo.cli.serve import ui
from kd_hpo.cli.servers import Server, listens, serve
from kd_hpo.errors import StudyError

CHILD = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
PARENT = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1]])
import time
time.sleep(1000)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def gone(port: int) -> bool:
    """What was killed may take a moment to go."""
    until = time.monotonic() + 30
    while listens(port) and time.monotonic() < until:
        time.sleep(0.05)
    return not listens(port)


def server(code: str, *arguments: object, port: int | None = None) -> Server:
    port = port or free_port()
    return Server("a server", [sys.executable, "-c", code, str(port), *map(str, arguments)], port, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_servers_and_their_children_end_with_the_command(number: signal.Signals) -> None:
    started, told = [server(PARENT), server(CHILD)], []

    def tell(line: str) -> None:
        told.append(line)
        if line == "stop with Ctrl-C":
            signal.raise_signal(number)

    serve(started, tell)
    assert sorted(told[:2]) == sorted(f"a server: {each.address}" for each in started)
    assert all(gone(each.port) for each in started)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_server_that_ends_by_itself_is_told_and_the_others_end() -> None:
    lasting = server(CHILD)
    failing = Server("MLflow", [sys.executable, "-c", "raise SystemExit('no such database')"], free_port(), "")
    with pytest.raises(StudyError, match=r"^MLflow has ended with exit code 1: no such database$"):
        serve([lasting, failing], lambda _: None)
    assert gone(lasting.port)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "serve", lambda *_: pytest.fail("started servers"))
    (tmp_path / "mlflow.db").touch()
    return tmp_path


def test_each_port_that_is_taken_is_named_with_its_option(runs: Path) -> None:
    (runs / "digits").mkdir()
    (runs / "digits" / "optuna.log").touch()
    free = [free_port() for _ in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option, ports in (
            ("--port", (port, *free)),
            ("--dashboard-port", (free[0], port, free[1])),
            ("--optuna-port", (*free, port)),
        ):
            mlflow, dashboard, optuna = ports
            with pytest.raises(StudyError, match=rf"^port {port} of .*; give another one with {option}$"):
                ui(runs=runs, port=mlflow, dashboard_port=dashboard, optuna_port=optuna)


def test_ports_must_differ(runs: Path) -> None:
    port = free_port()
    with pytest.raises(StudyError, match=rf"^--port {port} and --dashboard-port {port} must all differ$"):
        ui(runs=runs, port=port, dashboard_port=port)


def test_optuna_without_a_search_is_refused_only_where_it_was_asked_for(runs: Path) -> None:
    with pytest.raises(StudyError, match=r"^no study in .* has a search .* leave out --optuna$"):
        ui(runs=runs, optuna=True)


def test_study_that_is_not_there(runs: Path) -> None:
    with pytest.raises(StudyError, match=r"^no study 'digit' in "):
        ui("digit", runs=runs)


def test_command_without_the_extra_says_what_to_install(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"^the dashboard needs streamlit and .*: pip install 'kd_hpo\[dashboards\]'$"):
        ui(runs=runs)
