"""One study whose trials' processes die and raise, and whose MLflow server is away, hangs, answers 500 and hangs at the end."""

import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from mlflow import MlflowClient

from kd_hpo.study.tracking.runs import all_runs, open_experiment
from tests.service.faults import HOLD, IN_EPOCH_2, KILL, RAISE, FaultyStudy, faulty_study

pytestmark = [pytest.mark.service, pytest.mark.slow]

SEARCH = {
    "trials": 3,
    "scheduler": {"kind": "none"},
    "space": {"kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0}},
}
IN_EPOCH_3 = 33
FIRST, SECOND, THIRD = (f"hetero-t00{i}" for i in range(3))


class Tracker:
    """An MLflow server, a process of its own, behind a port that may answer 500 instead."""

    def __init__(self, home: Path) -> None:
        self._home, self._server = home, None
        self.broken = False
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._behind = free.getsockname()[1]
        tracker = self

        class Door(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                tracker.serve(self.request)

        class Doors(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            block_on_close = False

        self._doors = Doors(("127.0.0.1", 0), Door)
        self.uri = f"http://127.0.0.1:{self._doors.server_address[1]}"
        threading.Thread(target=self._doors.serve_forever, daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        """One request a connection: what the server answers, or 500; nothing where no server is there."""
        request = b""
        while b"\r\n\r\n" not in request:
            if not (part := client.recv(65536)):
                return
            request += part
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        length = next((int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:")), 0)
        while len(body) < length:
            body += client.recv(65536)
        if self.broken:
            client.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        try:
            with socket.create_connection(("127.0.0.1", self._behind)) as server:
                server.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
                while part := server.recv(65536):
                    client.sendall(part)
        except OSError:
            return

    def start(self) -> None:
        database, artifacts = f"sqlite:///{self._home}/server.db", str(self._home / "artifacts")
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(self._behind)]
        self._server = subprocess.Popen(
            [*command, "--backend-store-uri", database, "--artifacts-destination", artifacts],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            try:
                requests.get(f"http://127.0.0.1:{self._behind}/health", timeout=60)
                return
            except requests.ConnectionError:
                assert self._server.poll() is None
                time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        os.killpg(self._server.pid, number)

    def stop(self) -> None:
        self._doors.shutdown()
        self._doors.server_close()
        if self._server is not None:
            self.signal(signal.SIGKILL)
            self._server.wait()


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    tracker = Tracker(tmp_path_factory.mktemp("tracker"))
    yield tracker
    tracker.stop()


@pytest.fixture(scope="module")
def faulty(tracker: Tracker) -> Iterator[FaultyStudy]:
    tracking = {"uri": tracker.uri, "patience_s": 2.0}
    with faulty_study(search=SEARCH, tracking=tracking, resources={"concurrent_trials": 1}) as faulty:
        yield faulty


def finished(faulty: FaultyStudy) -> set[str]:
    """The trials that MLflow has whole."""
    client = MlflowClient(str(faulty.study.tracking.uri))
    return {r.data.tags["kd.trial"] for r in all_runs(client, open_experiment(faulty.study)) if r.info.status == "FINISHED"}


def test_trials_and_records_outlive_their_processes_and_the_tracker(faulty: FaultyStudy, tracker: Tracker) -> None:
    killed, held = faulty.put(KILL, at=IN_EPOCH_2), faulty.put(HOLD, at=IN_EPOCH_3)
    with faulty.command(*faulty.run()) as run:
        # the server is away; a process is killed in the middle of an epoch
        run.until(lambda: FIRST in faulty.ended())
        assert f"MLflow is away ({tracker.uri}: " in run.told
        assert faulty.states()[FIRST] == "completed" and len(faulty.taken(killed)) == 1
        assert faulty.taken(killed) != [faulty.worker(FIRST)]

        # it comes, and gets what it lacks; then it hangs, and a trial ends without it
        run.until(lambda: faulty.taken(held))
        tracker.start()
        run.until(lambda: finished(faulty) == {FIRST})
        tracker.signal(signal.SIGSTOP)
        held_2 = faulty.put(HOLD, "-2")
        faulty.release(held)
        run.until(lambda: SECOND in faulty.ended())

        # it answers 500; a trial raises, and ends without the server too
        run.until(lambda: faulty.taken(held_2))
        tracker.broken = True
        tracker.signal(signal.SIGCONT)
        raised, held_3 = faulty.put(RAISE, at=IN_EPOCH_3), faulty.put(HOLD, "-3")
        faulty.release(held_2)
        run.until(lambda: THIRD in faulty.ended())
        assert faulty.states()[THIRD] == "completed" and len(faulty.taken(raised)) == 1

        # it works again; then it hangs for good, and Ray's only node dies
        run.until(lambda: faulty.taken(held_3))
        tracker.broken = False
        run.until(lambda: finished(faulty) == {FIRST, SECOND, THIRD})
        tracker.signal(signal.SIGSTOP)
        (raylet,) = [p for p in psutil.Process(run.process.pid).children(recursive=True) if p.name() == "raylet"]
        raylet.kill()
        told = run.ended(1)
    assert f"MLflow is behind by 1 trial ({tracker.uri}: " in told
    assert "`kd-hpo resume small` writes them once it answers" in told
    assert told.endswith("error: Ray has lost its last node. What had ended is kept; continue with kd-hpo resume\n")

    faulty.release(held_3)
    tracker.signal(signal.SIGCONT)
    with faulty.command(*faulty.resume()) as resumed:
        assert "MLflow is" not in resumed.ended()
    faulty.must_be_whole()
