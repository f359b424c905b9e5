"""One study on a cluster of which one node is killed, and one cut off with its trial alive."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.service.faults import GONE_ON, HOLD, FaultyStudy, faulty_study

pytestmark = [pytest.mark.service, pytest.mark.slow]

SEARCH = {
    "trials": 2,
    "scheduler": {"kind": "none"},
    "space": {"kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0}},
}
HEALTH = {  # a node that has not answered for a quarter of a minute is dead
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Node:
    """`ray start --block`, and all that it starts."""

    def __init__(self, log: Path, environment: dict[str, str], *more: str) -> None:
        ray, self._log = Path(sys.executable).with_name("ray"), log
        with log.open("w") as told:
            self.process = subprocess.Popen(
                [str(ray), "start", "--block", "--num-cpus=1", "--disable-usage-stats", "--object-store-memory=100000000", *more],
                env=environment,
                stdout=told,
                stderr=told,
                start_new_session=True,
            )

    def starts(self) -> bool:
        """Waits until it has; Ray gives a node up that takes more than half a minute, as on a machine with other work."""
        while "Ray runtime started" not in self._log.read_text():
            if self.process.poll() is not None:
                return False
            time.sleep(0.1)
        return True

    def all(self) -> list[psutil.Process]:
        start = psutil.Process(self.process.pid)
        return [start, *start.children(recursive=True)]

    @property
    def raylet(self) -> psutil.Process:
        (raylet,) = [process for process in self.all() if process.name() == "raylet"]
        return raylet

    def holds(self, pid: int) -> bool:
        return self.process.poll() is None and pid in {process.pid for process in self.all()}

    def kill(self) -> None:
        if self.process.poll() is None:
            for process in self.all():
                process.kill()
        self.process.wait()


class Cluster:
    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self._home, self._environment = home, {**environment, **HEALTH}
        self.address = f"127.0.0.1:{free_port()}"
        self._head = ["--head", f"--port={self.address.split(':')[1]}", "--include-dashboard=false", f"--temp-dir={home}/ray"]
        self.nodes: list[Node] = []

    def add(self) -> Node:
        more = [f"--address={self.address}"] if self.nodes else self._head
        for attempt in range(5):
            log = self._home / f"ray-{len(self.nodes)}-{attempt}.log"
            node = Node(log, self._environment, "--node-ip-address=127.0.0.1", *more)
            if node.starts():
                self.nodes.append(node)
                return node
        raise AssertionError(log.read_text())

    def of(self, pid: int) -> Node:
        (node,) = [node for node in self.nodes if node.holds(pid)]
        return node


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultyStudy]:
    with faulty_study(search=SEARCH) as faulty:
        yield faulty


def test_study_outlives_a_node_and_the_record_outlives_a_zombie(faulty: FaultyStudy) -> None:
    cluster = Cluster(faulty.home, faulty.environment)
    resources = {"address": cluster.address, "cpus_per_trial": 1, "concurrent_trials": 2, "max_failures": 3}
    faulty.file.write_text(faulty.study.replace(resources=resources).model_dump_json())
    try:
        head = cluster.add()
        worker = cluster.add()
        holds = [faulty.put(HOLD, name) for name in ("-one", "-two")]
        with faulty.command(*faulty.run()) as run:
            run.until(lambda: all(faulty.taken(hold) for hold in holds))
            hold_at = {cluster.of(faulty.taken(hold)[0]): hold for hold in holds}
            assert set(hold_at) == {head, worker}
            trial = faulty.trial_of(faulty.taken(hold_at[worker])[0])

            # its node is killed, and it goes on at another one
            again = faulty.put(HOLD, "-again", at=GONE_ON)
            worker.kill()
            cut_off = cluster.add()
            run.until(lambda: faulty.taken(again))
            (zombie,) = faulty.taken(again)
            assert faulty.trial_of(zombie) == trial and cut_off.holds(zombie)

            # that one is cut off: nobody hears of it any more, and its trial lives on while the trial goes on elsewhere
            cut_off.raylet.suspend()
            faulty.release(hold_at[head])
            run.until(lambda: trial in faulty.ended())
            record = {path: path.read_bytes() for path in faulty.folder.trial(trial).iterdir() if path.is_file()}
            assert psutil.pid_exists(zombie) and faulty.worker(trial) != zombie
            faulty.release(again)
            run.until(lambda: (faulty.events / f"refused.{zombie}").exists())
            assert {path: path.read_bytes() for path in record} == record
            run.ended()
        faulty.must_be_whole()
    finally:
        for node in cluster.nodes:
            node.kill()
