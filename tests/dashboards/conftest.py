"""One MLflow database with two made-up studies for all tests of the dashboard, and one dashboard for those with a browser."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kd_hpo.study.environment import prepare_environment

prepare_environment()

from kd_hpo.trial.parts import Prepared  # noqa: E402
from tests.dashboards.made_up import MadeUp, ended_study, running_study  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_S = 180
"""Of a machine that does much else."""


@dataclass(frozen=True)
class Studies:
    runs: Path
    ended: MadeUp
    running: MadeUp

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.runs / 'mlflow.db'}"


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Studies:
    runs = tmp_path_factory.mktemp("runs")
    return Studies(runs, ended_study(runs, prepared), running_study(runs, prepared))


@dataclass
class Served:
    """`kd-hpo ui` as a process of its own."""

    process: subprocess.Popen[str]
    told: Path
    ports: tuple[int, int, int]
    addresses: dict[str, str] = field(default_factory=dict)

    @classmethod
    def start(cls, runs: Path, told: Path, *arguments: str) -> "Served":
        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            ports = tuple(each.getsockname()[1] for each in sockets)
        options = [f"--{name}port={port}" for name, port in zip(("", "dashboard-", "optuna-"), ports, strict=True)]
        command = [sys.executable, "-c", "from kd_hpo.cli.main import main; main()", "ui", f"--runs={runs}"]
        with told.open("w") as out:
            process = subprocess.Popen([*command, *options, *arguments], stdout=out, stderr=out, text=True)
        return cls(process, told, ports)  # type: ignore[arg-type]

    def wait(self) -> "Served":
        """Until all servers answer."""
        until = time.monotonic() + PATIENCE_S
        while "stop with Ctrl-C" not in self.told.read_text():
            assert self.process.poll() is None and time.monotonic() < until, self.told.read_text()
            time.sleep(0.1)
        lines = [line.split(": ", 1) for line in self.told.read_text().splitlines() if ": http" in line]
        self.addresses = dict(lines)
        return self

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="session")
def served(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    started = Served.start(studies.runs, tmp_path_factory.mktemp("ui") / "told", "ended")
    try:
        yield started.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(started.process.pid, signal.SIGTERM)
        started.process.wait(PATIENCE_S)
