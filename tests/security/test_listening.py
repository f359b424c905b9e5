"""The server that `kd-hpo ui` starts listens on this machine alone. Ray's sockets are looked at in tests/service."""

import os
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6, create_server

import pytest

from kd_hpo.cli import main, serve
from kd_hpo.cli.servers import Server
from kd_hpo.study.cluster.loopback import on_loopback
from tests.security.listening import is_loopback, reachable_from_elsewhere


def test_every_server_listens_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    started: list[Server] = []
    monkeypatch.setattr(serve, "serve", lambda servers, tell: started.extend(servers))
    monkeypatch.setenv("MLFLOW_HOST", "0.0.0.0")
    monkeypatch.setattr(sys, "argv", ["kd-hpo", "ui", "--runs", str(tmp_path), "--port", "5596"])
    with suppress(SystemExit):
        main.main()
    dashboard, mlflow = started
    assert ip_address(mlflow.command[mlflow.command.index("--host") + 1]).is_loopback
    assert mlflow.address == "http://127.0.0.1:5596"
    assert list(dashboard.command[1:3]) == ["-m", "kd_hpo.dashboards"]  # tests/dashboards looks at its socket


def test_ray_asks_for_a_token_that_nobody_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with on_loopback():
        token = os.environ["RAY_AUTH_TOKEN"]
        assert len(token) == 64
    with on_loopback():  # Ray reads it once a process
        assert os.environ["RAY_AUTH_TOKEN"] == token
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's own")
    with on_loopback():
        assert os.environ["RAY_AUTH_TOKEN"] == "the user's own"


@pytest.mark.parametrize(
    ("family", "address", "loopback"), [(AF_INET, "127.0.0.1", True), (AF_INET, "0.0.0.0", False), (AF_INET6, "::", False)]
)
def test_the_look_at_sockets_sees_what_it_should(family: int, address: str, loopback: bool) -> None:
    with create_server((address, 0), family=family) as listening:
        told = f"{ip_address(address)}:{listening.getsockname()[1]}"
        assert (told in reachable_from_elsewhere(os.getpid())) == (not loopback)
    assert is_loopback(ip_address("::ffff:127.0.0.1")) and not is_loopback(ip_address("::ffff:192.0.2.2"))
