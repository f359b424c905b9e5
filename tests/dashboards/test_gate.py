"""What a page of a stranger may not ask of the pages that `kd-hpo ui` starts: the rule, and Optuna's dashboard for real."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest

from kd_hpo.dashboards.gate import Gate
from kd_hpo.dashboards.mlflow_own import only_reads, own_checks
from kd_hpo.dashboards.optuna_own import Threads, application
from kd_hpo.study.search.journal import journal
from tests.dashboards.asking import FOREIGN, ask, status

LOCAL, EVERYWHERE = Gate("127.0.0.1"), Gate("0.0.0.0")
PROXIED = Gate("127.0.0.1", also=("kd.example",))


def refused(gate: Gate, host: str, **headers: str) -> bool:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gate.refusal("GET", "/", {"host": host, **named}) is not None


def test_on_loopback_it_answers_to_this_machines_names() -> None:
    for host in ("localhost", "127.0.0.1:5001", "LOCALHOST:8888", "[::1]:5001", "127.0.0.2", "localhost."):
        assert not refused(LOCAL, host), host
    for host in (FOREIGN, "10.0.0.7", f"localhost.{FOREIGN}", f"127.0.0.1.{FOREIGN}", gethostname() + "x", "kd.example"):
        assert refused(LOCAL, host), host


NO_HOSTS = [
    "",
    " ",
    "localhost, evil",
    "evil@localhost",
    "localhost/x",
    "localhost:x",
    "localhost:99999",
    "http://localhost",
    "[::1",
]


@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    for gate in (LOCAL, EVERYWHERE, PROXIED):
        assert refused(gate, host)
    assert LOCAL.refusal("GET", "/", {}) is not None


def test_beyond_loopback_it_answers_to_addresses_and_to_the_machines_name() -> None:
    for host in ("localhost:5001", "192.0.2.7:5001", "[2001:db8::1]", gethostname()):
        assert not refused(EVERYWHERE, host), host
    for host in (FOREIGN, "10.evil.example", f"192.0.2.7.{FOREIGN}"):
        assert refused(EVERYWHERE, host), host
    named = Gate("gpu.lab")
    assert not refused(named, "gpu.lab:5001") and refused(named, "cpu.lab:5001")


def test_a_further_name_is_that_of_a_proxy() -> None:
    """Which hands Host on, or puts its own there; browsers tell the name that they know."""
    assert not refused(PROXIED, "kd.example", origin="https://kd.example")
    assert not refused(PROXIED, "127.0.0.1:5001", origin="https://kd.example")
    for origin in ("https://x.kd.example", "https://kd.example.evil", "kd.example", "ftp://kd.example"):
        assert refused(PROXIED, "kd.example:1", origin=origin), origin


def test_only_its_own_pages_may_ask() -> None:
    assert not refused(LOCAL, "localhost:5001", origin="http://localhost:5001")
    assert not refused(EVERYWHERE, "192.0.2.7", origin="http://192.0.2.7:80")
    for origin in (
        "http://localhost:9999",
        "http://127.0.0.1:5001",
        f"http://{FOREIGN}",
        "null",
        "",
        "http://localhost:5001@evil",
    ):
        assert refused(LOCAL, "localhost:5001", origin=origin), origin
    assert refused(EVERYWHERE, "192.0.2.7", origin="http://198.51.100.1")


def test_what_a_browser_says_of_the_asking_page_counts_without_an_origin() -> None:
    for site in ("cross-site", "same-site"):
        assert refused(LOCAL, "localhost", sec_fetch_site=site, sec_fetch_mode="no-cors", sec_fetch_dest="script")
        assert refused(LOCAL, "localhost", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="iframe")
        assert not refused(LOCAL, "localhost", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="document")
        form = {"host": "localhost", "sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert Gate("127.0.0.1", write=True).refusal("POST", "/", form)
    for site in ("none", "same-origin"):
        assert not refused(LOCAL, "localhost", sec_fetch_site=site, sec_fetch_mode="cors", sec_fetch_dest="empty")


def test_what_changes_something_is_refused_unless_it_was_asked_for() -> None:
    here = {"host": "localhost"}
    reading, writing = Gate("127.0.0.1", reading=only_reads), Gate("127.0.0.1", write=True)
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "MOVE"):
        assert LOCAL.refusal(method, "/api/x", here) and not writing.refusal(method, "/api/x", here)
        assert writing.refusal(method, "/api/x", {"host": FOREIGN})
        assert writing.refusal(method, "/api/x", here | {"origin": f"http://{FOREIGN}"})
    assert reading.refusal("POST", "/ajax-api/2.0/mlflow/runs/search", here) is None
    assert reading.refusal("DELETE", "/ajax-api/2.0/mlflow/runs/search", here) is not None


def test_mlflows_pages_read_with_few_of_its_paths() -> None:
    for path in ("/graphql", "/api/2.0/mlflow/experiments/search", "/ajax-api/3.0/mlflow/traces/search"):
        assert only_reads(path)
    for path in (
        "/ajax-api/2.0/mlflow/runs/delete",
        "/ajax-api/2.0/mlflow/runs/log-metric",
        "/ajax-api/2.0/mlflow-artifacts/mpu/create/search",
        "/ajax-api/2.0/mlflow/runs/delete/x/search",
        "/ajax-api/2.0/mlflow/runs/update//search",
        "/ajax-api/3.0/mlflow/assistant/message",
        "/graphql/x",
    ):
        assert not only_reads(path), path


def test_mlflows_own_check_is_told_the_names_that_the_gate_knows() -> None:
    """Its default has `10.*`, which 10.evil.example fits."""
    told = own_checks(PROXIED)
    hosts = told["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"localhost", "localhost:*", "127.0.0.1:*", "kd.example"} <= set(hosts) and "*" not in hosts and "10.*" not in hosts
    assert told["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "http://kd.example,https://kd.example"
    assert own_checks(EVERYWHERE)["MLFLOW_SERVER_ALLOWED_HOSTS"] == "*"


# ---- Optuna's dashboard


class Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "optuna.log"
    study = optuna.create_study(storage=journal(path), study_name="kd")
    study.tell(study.ask(), 1.0)
    return path


@contextmanager
def serving(path: Path, gate: Gate) -> Iterator[int]:
    with make_server("127.0.0.1", 0, application(path, gate), Threads, Silent) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


CHANGES = {
    "DELETE": "/api/studies/0",
    "POST": "/api/studies",
    "PUT": "/api/studies/0/note",
}


def test_optunas_dashboard_reads_a_journal_and_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    with serving(path, Gate("127.0.0.1")) as port:
        shown, text = ask(port, "GET", "/api/studies")
        assert shown == 200 and '"kd"' in text
        assert status(port, "GET", "/dashboard", origin=f"http://127.0.0.1:{port}") == 200
        for method, where in CHANGES.items():
            refusal, text = ask(port, method, where, '{"study_name": "x", "directions": ["minimize"]}')
            assert refusal == 403 and "--write" in text
        assert status(port, "GET", "/api/studies", host=f"{FOREIGN}:{port}") == 403
        assert status(port, "GET", "/api/studies", origin=f"http://{FOREIGN}") == 403
    assert path.read_bytes() == before


def test_optunas_dashboard_changes_a_journal_for_its_own_pages_where_that_is_asked_for(path: Path) -> None:
    with serving(path, Gate("127.0.0.1", write=True)) as port:
        assert status(port, "DELETE", "/api/studies/0", host=FOREIGN) == 403
        assert status(port, "DELETE", "/api/studies/0", origin=f"http://{FOREIGN}") == 403
        assert '"kd"' in ask(port, "GET", "/api/studies")[1]
        assert status(port, "DELETE", "/api/studies/0", origin=f"http://127.0.0.1:{port}") == 204
        assert '"kd"' not in ask(port, "GET", "/api/studies")[1]


def test_a_journal_that_is_shown_read_only_is_so_without_the_gate(path: Path) -> None:
    """Whatever the gate let through would not reach the file."""
    before = path.read_bytes()
    with serving(path, Gate("127.0.0.1", reading=lambda path: True)) as port:
        assert status(port, "POST", "/api/studies", '{"study_name": "x", "directions": ["minimize"]}') == 500
    assert path.read_bytes() == before


def test_no_journal_is_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"optuna\.log"):
        application(tmp_path / "optuna.log", LOCAL)
    assert not list(tmp_path.iterdir())
