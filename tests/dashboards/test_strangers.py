"""Requests of strangers' pages to all that `kd-hpo ui` has started, for real: another host, another origin, a websocket."""

import json
import signal
from pathlib import Path

import pytest

from tests.dashboards.asking import FOREIGN, ask, status, websocket_status
from tests.dashboards.conftest import Served, Studies
from tests.dashboards.made_up import ENDED, RUNNING
from tests.security.listening import reachable_from_elsewhere

pytestmark = [pytest.mark.service, pytest.mark.slow]
STREAM = "/_stcore/stream"
PAGES = ((0, "/"), (0, "/health"), (0, "/version"), (1, "/"), (1, "/_stcore/health"), (2, "/dashboard"), (2, "/api/studies"))
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"
CHANGES = (
    (0, "POST", "/api/2.0/mlflow/experiments/delete"),
    (0, "POST", "/ajax-api/2.0/mlflow/runs/delete"),
    (0, "POST", "/ajax-api/3.0/mlflow/assistant/message"),
    (0, "DELETE", "/api/2.0/mlflow/registered-models/delete"),
    (0, "PUT", "/api/2.0/mlflow-artifacts/artifacts/x"),
    (1, "PUT", "/_stcore/upload_file/a/b"),
    (1, "POST", "/_stcore/agent/interact"),
    (2, "DELETE", "/api/studies/0"),
    (2, "POST", "/api/studies"),
)


def test_only_this_machine_is_listened_to(served: Served) -> None:
    assert not reachable_from_elsewhere(served.process.pid)


@pytest.mark.parametrize(("server", "path"), PAGES)
def test_page_is_there_for_its_own_and_refused_to_others(served: Served, server: int, path: str) -> None:
    port = served.ports[server]
    assert status(port, "GET", path) == 200
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert status(port, "GET", path, host=host, origin=f"http://{host}") == 200
    for foreign in (FOREIGN, f"{FOREIGN}:{port}", "10.evil.example", f"192.168.0.1.{FOREIGN}"):
        assert status(port, "GET", path, host=foreign, origin=f"http://{foreign}") == 403
    assert status(port, "GET", path, origin=f"http://{FOREIGN}") == 403


def test_the_dashboards_websocket_opens_for_its_own_pages_alone(served: Served) -> None:
    port = served.ports[1]
    assert websocket_status(port, STREAM) == 101
    assert websocket_status(port, STREAM, origin=f"http://127.0.0.1:{port}") == 101
    assert websocket_status(port, STREAM, origin=f"http://{FOREIGN}") == 403
    for foreign in (FOREIGN, f"{FOREIGN}:{port}"):
        assert websocket_status(port, STREAM, host=foreign) == 403
        assert websocket_status(port, STREAM, host=foreign, origin=f"http://{foreign}") == 403


@pytest.mark.parametrize(("server", "method", "path"), CHANGES)
def test_nothing_is_changed(served: Served, server: int, method: str, path: str) -> None:
    port = served.ports[server]
    for headers in ({}, {"host": FOREIGN}, {"origin": f"http://{FOREIGN}"}, {"origin": f"http://127.0.0.1:{port}"}):
        assert status(port, method, path, "{}", **headers) == 403


def test_mlflow_is_read_by_its_own_pages(served: Served) -> None:
    port = served.ports[0]
    answer, text = ask(port, "POST", SEARCH, '{"max_results": 10}', origin=f"http://127.0.0.1:{port}")
    assert answer == 200 and {ENDED, RUNNING} <= {each["name"] for each in json.loads(text)["experiments"]}
    assert status(port, "POST", SEARCH, '{"max_results": 10}', host=FOREIGN) == 403
    assert status(port, "POST", SEARCH, '{"max_results": 10}', origin=f"http://{FOREIGN}") == 403


def test_with_write_mlflow_and_optuna_let_their_own_pages_change_things_and_nobody_else(studies: Studies, tmp_path: Path) -> None:
    served = Served.start(studies.runs, tmp_path / "told", "ended", "--write", "--allowed-host", "kd.example").wait()
    mlflow, dashboard, optuna = served.ports
    tag = ("POST", "/api/2.0/mlflow/experiments/set-experiment-tag", '{"experiment_id": "1", "key": "a", "value": "b"}')
    note = ("PUT", "/api/studies/0/note", '{"body": "seen", "version": 1}')
    try:
        for port, change in ((mlflow, tag), (optuna, note)):
            assert status(port, *change, host=FOREIGN) == 403
            assert status(port, *change, origin=f"http://{FOREIGN}") == 403
            assert status(port, *change, host="kd.example", origin="https://kd.example") in (200, 204)
        assert websocket_status(dashboard, STREAM, host="kd.example", origin="https://kd.example") == 101
        assert status(dashboard, "PUT", "/_stcore/upload_file/a/b", host="kd.example") == 403
    finally:
        served.stop(signal.SIGTERM)
