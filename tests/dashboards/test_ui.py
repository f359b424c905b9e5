"""`kd-hpo ui`: what it refuses, and that nothing it has started outlives it."""

import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kd_hpo.cli import serve as module
from kd_hpo.cli.serve import ui
from kd_hpo.cli.servers import Server, listens, serve
from kd_hpo.dashboards.tracked import UNREADABLE, refusal, require_database, tracking
from kd_hpo.errors import StudyError
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study

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
    started, told, before = [server(PARENT), server(CHILD)], [], signal.getsignal(signal.SIGINT)

    def tell(line: str) -> None:
        told.append(line)
        if line == "stop with Ctrl-C":
            signal.raise_signal(number)

    serve(started, tell)
    assert sorted(told[:2]) == sorted(f"a server: {each.address}" for each in started)
    assert all(gone(each.port) for each in started)
    assert signal.getsignal(signal.SIGINT) is before


def test_servers_and_their_children_end_when_the_command_is_killed() -> None:
    started = server(PARENT)
    command = f"""
from kd_hpo.cli.servers import Server, serve
serve([Server("a server", {started.command!r}, {started.port}, "here")], lambda line: print(line, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "a server: here\n"
        process.kill()
    assert gone(started.port)


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


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    servers: list[Server] = []
    monkeypatch.setattr(module, "serve", lambda given, tell: servers.extend(given))
    monkeypatch.delenv("KD_HPO_MLFLOW_URL", raising=False)
    return servers


def test_server_of_another_machine_is_shown_and_none_is_started_here(
    tmp_path: Path, started: list[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as elsewhere:  # it answers: 501
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{elsewhere.server_port}"
        ui(runs=tmp_path, tracking_uri=f"{address}/", dashboard_port=free_port())
        elsewhere.shutdown()
    (dashboard,) = started
    assert dashboard.environment["MLFLOW_TRACKING_URI"] == f"{address}/"
    assert dashboard.environment["KD_HPO_MLFLOW_URL"] == address
    told = capsys.readouterr()
    assert told.out.startswith(f"MLflow: {address} (not started here)")
    assert "warning" not in told.err


def test_server_that_is_away_is_told_at_once(tmp_path: Path, started: list[Server], capsys: pytest.CaptureFixture[str]) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    ui(runs=tmp_path, tracking_uri=address, dashboard_port=free_port())
    assert len(started) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith(f"warning: {address} does not answer (") and "refused" in told


def test_database_that_hangs_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")  # the least that PostgreSQL's library takes
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"postgresql+psycopg://me:secret@127.0.0.1:{silent.getsockname()[1]}/mlflow"
        with pytest.raises(UNREADABLE) as away:
            tracking(uri)
    told = refusal(uri, away.value)
    assert told.startswith("MLflow at postgresql+psycopg://…@127.0.0.1:") and "timeout" in told and "secret" not in told


def test_database_whose_driver_is_not_there_is_told() -> None:
    with pytest.raises(ConnectionError, match="driver is not installed"):
        require_database("mssql+pyodbc://127.0.0.1/mlflow")


def test_study_that_is_tracked_on_a_server_is_shown_from_there(
    tmp_path: Path, started: list[Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = digits_study(tmp_path, tracking={"uri": "http://${WHO}@mlflow.example:5000"})
    StudyFolder.of(study).write_settings(study)
    monkeypatch.setenv("WHO", "me:secret")
    monkeypatch.setattr(module, "_silent", lambda address: None)
    ui(study.name, runs=tmp_path, dashboard_port=free_port())
    (dashboard,) = started
    assert dashboard.environment["MLFLOW_TRACKING_URI"] == "http://me:secret@mlflow.example:5000"
    assert dashboard.address.endswith(f"/?study={study.name}")
    assert "secret" not in capsys.readouterr().out and not any("secret" in word for word in dashboard.command)


def test_server_of_the_environment_is_shown_where_the_study_is_tracked_there(
    tmp_path: Path, started: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = digits_study(tmp_path)
    StudyFolder.of(study).write_settings(study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    monkeypatch.setattr(module, "_silent", lambda address: None)
    for given in ((study.name,), ()):  # and without a study, since there is no database here
        ui(*given, runs=tmp_path, dashboard_port=free_port())
        (dashboard,) = started
        assert dashboard.environment["MLFLOW_TRACKING_URI"] == "http://mlflow.example:5000"
        started.clear()


def test_database_of_the_folder_comes_before_the_environment_where_no_study_is_named(
    runs: Path, started: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    ui(runs=runs, port=free_port(), dashboard_port=free_port(), optuna=False)
    assert started[0].environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{runs / 'mlflow.db'}"


@pytest.mark.parametrize("uri", ["sqlite:////tmp/mlflow.db", "mlflow:5000", "http://me:secret@mlflow.example"])
def test_tracking_uri_that_is_no_servers_or_holds_a_password_is_refused(runs: Path, uri: str) -> None:
    with pytest.raises(StudyError, match=r"^--tracking-uri .*(http://|password)") as refused:
        ui(runs=runs, tracking_uri=uri)
    assert "secret" not in str(refused.value)


def test_dashboard_alone_listens_beyond_this_machine_and_says_so(
    runs: Path, started: list[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "digits").mkdir()
    (runs / "digits" / "optuna.log").touch()
    port = free_port()
    ui(runs=runs, host="0.0.0.0", port=free_port(), dashboard_port=port)
    dashboard, mlflow = started
    assert dashboard.command[-4:] == ["--host", "0.0.0.0", "--port", str(port)]
    assert (dashboard.address, dashboard.host) == (f"http://127.0.0.1:{port}/", "127.0.0.1")
    assert mlflow.command[mlflow.command.index("--host") + 1] == "127.0.0.1"
    assert capsys.readouterr().err.startswith(f"warning: the dashboard listens on 0.0.0.0, port {port}")


def test_pages_are_told_who_may_ask_and_whether_they_may_change_anything(runs: Path, started: list[Server]) -> None:
    (runs / "digits").mkdir()
    (runs / "digits" / "optuna.log").touch()
    ports = {"port": free_port(), "dashboard_port": free_port(), "optuna_port": free_port()}
    ui(runs=runs, **ports)
    assert not any("--write" in each.command for each in started) and len(started) == 3
    started.clear()
    ui(runs=runs, **ports, allowed_host=("kd.example", "10.0.0.7"), write=True)
    dashboard, mlflow, optuna = (list(each.command) for each in started)
    for command in (dashboard, mlflow, optuna):
        assert {"--allowed-host=kd.example", "--allowed-host=10.0.0.7"} <= set(command)
    assert "--write" in mlflow and "--write" in optuna and "--write" not in dashboard


@pytest.mark.parametrize("name", ["http://kd.example", "kd.example:80", "*", "*.example", "", "kd.example/x"])
def test_an_allowed_host_is_a_name_alone(runs: Path, name: str) -> None:
    with pytest.raises(StudyError, match="--allowed-host takes a name alone"):
        ui(runs=runs, allowed_host=(name,))


def test_mlflows_list_is_opened_where_it_has_no_study_or_no_answer() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert module._trials_page(address, "digits") == f"{address}/#/experiments?workflowType=machine_learning"
