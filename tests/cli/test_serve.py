"""kd-hpo ui, before any server starts."""

import socket

import pytest

from tests.cli.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.mark.parametrize("port", [None, 70000])
def test_ui_on_a_port_that_cannot_be_used(kd_hpo: Command, monkeypatch: pytest.MonkeyPatch, port: int | None) -> None:
    monkeypatch.setattr("kd_hpo.cli.serve.serve", lambda *_: pytest.fail("started a server"))
    (kd_hpo.folder / "runs").mkdir()
    (kd_hpo.folder / "runs" / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = port or taken.getsockname()[1]
        told = kd_hpo("ui", "--port", given)
    assert str(given) in told.error and told.error.endswith("--port")


def test_ui_without_a_database(kd_hpo: Command) -> None:
    error = kd_hpo("ui", "--runs", "none").error
    assert f"{kd_hpo.folder}/none/mlflow.db" in error and "--tracking-uri" in error
