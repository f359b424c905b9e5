"""Runs studies for a while and kills their trials, nodes, drivers and tracker at random; says what was lost, doubled or leaked.

    python studies/bench/soak.py --minutes 30 --seed 0

Each study is a `kd-hpo` command of its own on a local Ray, with an MLflow server that all share. Faults come one after the
other, after random pauses in which trials run: a trial's process, the node (Ray's raylet) or the driver is killed, the driver
is stopped with SIGINT or SIGTERM, the server is killed and started again, or hangs. A driver that has ended is resumed until
its study is done. Then every epoch of every trial must stand in MLflow once: what does not is lost, or doubled.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from kd_hpo.study.environment import prepare_environment

prepare_environment()

import psutil  # noqa: E402
import requests  # noqa: E402
from mlflow import MlflowClient  # noqa: E402

from kd_hpo.config.study import StudyConfig  # noqa: E402
from kd_hpo.config.task import Classification  # noqa: E402
from kd_hpo.study.search.journal import known_trials  # noqa: E402
from kd_hpo.study.store.folder import StudyFolder  # noqa: E402
from kd_hpo.study.tracking.runs import all_runs, open_experiment  # noqa: E402

METRIC = Classification.goal.on("val")
FAULTS = ("trial killed", "node killed", "driver killed", "SIGINT", "SIGTERM", "tracker killed", "tracker hangs")
NETWORK = {"name": "plain_conv", "arguments": {"channels": [4, 8], "hidden": 16, "padding": 1}}


def study_of(home: Path, number: int, uri: str, *, epochs: int, trials: int) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": f"soak-{number:03d}",
            "data": {"kind": "digits"},
            "splits": {"train": 640, "outer": 200, "val": 200, "test": 200},
            "teacher": {"network": NETWORK, "layers": ["conv1", "conv2"], "training": {"epochs": 4, "batch_size": 32}},
            "student": {"network": NETWORK, "layers": ["conv1", "conv2"]},
            "training": {"epochs": epochs, "batch_size": 32},
            "search": {"trials": trials, "seed": number, "scheduler": {"kind": "asha", "grace_epochs": 2}},
            "compare": {"methods": ["kd", "hetero"], "seeds": 2},
            "resources": {"cpus_per_trial": 0.5, "concurrent_trials": 2, "max_failures": 20},
            "tracking": {"uri": uri},
            "runs": home / "runs",
        }
    )


class Tracker:
    def __init__(self, home: Path, port: int) -> None:
        self._home, self._port, self.uri = home, port, f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(self._port)]
        database, artifacts = f"sqlite:///{self._home}/server.db", str(self._home / "artifacts")
        self._process = subprocess.Popen(
            [*command, "--backend-store-uri", database, "--artifacts-destination", artifacts],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()

    def start_or_continue(self) -> None:
        """And waits until it answers."""
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
        else:
            self.start()
        while True:
            try:
                requests.get(f"{self.uri}/health", timeout=30)
                return
            except requests.RequestException:
                time.sleep(0.2)


@dataclass
class Tally:
    """What has happened so far."""

    studies: int = 0
    drivers: int = 0
    trials: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    epochs: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    driver_mib: list[float] = field(default_factory=list)
    """What each driver has at its end beyond what it had when its first trial ran."""
    worker_mib: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of each worker process, at every look."""


class Soak:
    def __init__(self, home: Path, *, seed: int, pause_s: float, epochs: int, trials: int, port: int) -> None:
        self.home, self.tally = home, Tally()
        self._random, self._pause_s, self._epochs, self._trials = random.Random(seed), pause_s, epochs, trials
        self._tracker = Tracker(home, port)
        self._until_fault_s = pause_s
        """For how long trials still run, whoever drives them: the start of a driver does not count."""
        self._tracker_well_at: float | None = None
        self._driver: subprocess.Popen[bytes] | None = None

    def run(self, seconds: float) -> Tally:
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                self.study(study_of(self.home, self.tally.studies, self._tracker.uri, epochs=self._epochs, trials=self._trials))
                self.tally.studies += 1
                print(json.dumps({"after_studies": self.tally.studies, **figures(self.tally)}), flush=True)
        finally:
            if self._driver is not None:
                self._driver.kill()
            self._tracker.kill()
        return self.tally

    def study(self, study: StudyConfig) -> None:
        """Until it is done, whatever happens to its drivers."""
        file = self.home / f"{study.name}.yaml"
        file.write_text(study.model_dump_json())
        words = ["run", str(file)]
        while (code := self.driver(study, words)) != 0:
            if code == 1:
                print((self.home / f"{study.name}.log").read_text().splitlines()[-1], flush=True)
            words = ["resume", study.name, "--runs", str(study.runs)]
        self.tracker_is_well()
        if self.driver(study, ["resume", study.name, "--runs", str(study.runs)], faults=False) != 0:
            raise SystemExit((self.home / f"{study.name}.log").read_text())
        self.count(study)

    def driver(self, study: StudyConfig, words: list[str], *, faults: bool = True) -> int:
        """One process of the study; its exit code."""
        self.tally.drivers += 1
        with (self.home / f"{study.name}.log").open("a") as told:
            process = subprocess.Popen(
                [sys.executable, "-c", "from kd_hpo.cli.main import main; main()", *words],
                stdout=told,
                stderr=told,
                env={**os.environ, "RAY_TMPDIR": str(self.home)},
                start_new_session=True,
            )
            driver, mib = psutil.Process(process.pid), list[float]()
            self._driver, looked = process, time.monotonic()
            while process.poll() is None:
                time.sleep(0.25)
                workers = self.look(driver, mib)
                before, looked = looked, time.monotonic()
                if workers:
                    self._until_fault_s -= looked - before
                if faults and workers and self._until_fault_s <= 0:
                    self.fault(process, workers)
                    self._until_fault_s = self._random.uniform(0.5, 1.5) * self._pause_s
                if self._tracker_well_at is not None and time.monotonic() > self._tracker_well_at:
                    self.tracker_is_well()
            if len(mib) > 8:
                self.tally.driver_mib.append(max(mib[-4:]) - mib[0])
        return int(process.wait())

    def look(self, driver: psutil.Process, mib: list[float]) -> list[psutil.Process]:
        """The processes of trials; takes the memory of all."""
        try:
            below = driver.children(recursive=True)
            workers = [p for p in below if "ImplicitFunc" in " ".join(p.cmdline())]
            if workers:
                mib.append(driver.memory_info().rss / 2**20)
            for worker in workers:
                self.tally.worker_mib[worker.pid].append(worker.memory_info().rss / 2**20)
        except psutil.Error:
            return []
        return workers

    def fault(self, process: subprocess.Popen[bytes], workers: list[psutil.Process]) -> None:
        what = self._random.choice(FAULTS)
        if what.startswith("tracker") and self._tracker_well_at is not None:
            what = "trial killed"
        self.tally.faults[what] += 1
        try:
            match what:
                case "trial killed":
                    self._random.choice(workers).kill()
                case "node killed":
                    below = psutil.Process(process.pid).children(recursive=True)
                    next(p for p in below if p.name() == "raylet").kill()
                case "driver killed":
                    process.kill()
                case "SIGINT" | "SIGTERM":
                    os.killpg(process.pid, signal.SIGINT if what == "SIGINT" else signal.SIGTERM)
                case "tracker killed":
                    self._tracker.kill()
                    self._tracker_well_at = time.monotonic() + self._random.uniform(1, 30)
                case "tracker hangs":
                    self._tracker.signal(signal.SIGSTOP)
                    self._tracker_well_at = time.monotonic() + self._random.uniform(1, 30)
        except (psutil.Error, StopIteration, ProcessLookupError):
            self.tally.faults[what] -= 1  # it was gone already

    def tracker_is_well(self) -> None:
        self._tracker.start_or_continue()
        self._tracker_well_at = None

    def count(self, study: StudyConfig) -> None:
        """Compares MLflow with the study's folder, epoch by epoch, and Optuna's journal with it too."""
        folder, client, tally = StudyFolder.of(study), MlflowClient(self._tracker.uri), self.tally
        runs = list(all_runs(client, open_experiment(study)))
        found = Counter(run.data.tags["kd.trial"] for run in runs)
        tally.orphans += [f"{study.name} {run.info.run_name}" for run in runs if run.info.status == "RUNNING"]
        for status in folder.statuses():
            name = f"{study.name} {status.spec.id}"
            tally.trials[status.state] += 1
            if status.state == "running" or not found[status.spec.id]:
                tally.lost.append(name)
                continue
            if found[status.spec.id] > 1:
                tally.doubled.append(name)
            run = next(run for run in runs if run.data.tags["kd.trial"] == status.spec.id)
            steps = Counter((m.step, m.value) for m in client.get_metric_history(run.info.run_id, METRIC))
            epochs = Counter((r.epoch, r.metrics[METRIC]) for r in folder.records(status.spec.id))
            tally.epochs += epochs.total()
            tally.lost += [f"{name} epoch {epoch}" for epoch, _ in epochs - steps]
            tally.doubled += [f"{name} epoch {epoch}" for epoch, _ in steps - epochs]
        asked = [repr(trial.params) for trial in known_trials(folder, study.search.method)]
        tally.doubled += [f"{study.name} suggestion {params}" for params, times in Counter(asked).items() if times > 1]
        if len(asked) != study.search.trials:
            tally.lost.append(f"{study.name} has {len(asked)} of {study.search.trials} suggestions")


def figures(tally: Tally) -> dict[str, object]:
    grown = sorted(max(seen[-4:]) - seen[len(seen) // 4] for seen in tally.worker_mib.values() if len(seen) > 40)
    drivers = sorted(tally.driver_mib)
    return {
        "studies": tally.studies,
        "drivers": tally.drivers,
        "trials": dict(tally.trials),
        "epochs": tally.epochs,
        "faults": {name: count for name, count in sorted(tally.faults.items()) if count},
        "faults_in_all": tally.faults.total(),
        "lost": tally.lost,
        "doubled": tally.doubled,
        "left_running": tally.orphans,
        "driver_growth_mib": {"median": round(drivers[len(drivers) // 2], 1), "most": round(drivers[-1], 1)} if drivers else {},
        "worker_growth_mib": {"median": round(grown[len(grown) // 2], 1), "most": round(grown[-1], 1)} if grown else {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=15.0, help="seconds of running trials between two faults, on average")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--trials", type=int, default=12, help="of each study's search")
    parser.add_argument("--port", type=int, default=6590)
    given = parser.parse_args()
    home = Path(mkdtemp(prefix="soak", dir="/tmp"))  # short, since Ray keeps Unix sockets below it
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    soak = Soak(home, seed=given.seed, pause_s=given.pause, epochs=given.epochs, trials=given.trials, port=given.port)
    tally = soak.run(60 * given.minutes)
    shutil.rmtree(home, ignore_errors=True)
    minutes = round((time.monotonic() - started) / 60, 1)
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[2], "python": platform.python_version()}
    print(json.dumps({"minutes": minutes, "seed": given.seed, **machine, **figures(tally)}, indent=1))
    sys.exit(bool(tally.lost or tally.doubled or tally.orphans))


if __name__ == "__main__":
    main()
