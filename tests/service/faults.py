"""Studies of the command line that faults are done to, at events, and what must hold of each in the end."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from textwrap import dedent

import pytest
from mlflow import MlflowClient

from kd_hpo.study.design.trials import trial_config
from kd_hpo.study.search.journal import known_trials
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder, TrialStatus
from kd_hpo.study.tracking.runs import all_runs, open_experiment, tracking_uri
from kd_hpo.trial.result import TrialResult
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_study

ROOT = Path(__file__).parents[2]
EPOCHS = 4
MODULE = '''
import os, signal, time
from pathlib import Path
from kd_hpo.errors import KdHpoError
from kd_hpo.nets.plain_conv import PlainConv
from kd_hpo.study.store.lease import Superseded

EVENTS = Path("HOME/events")  # whatever copy of this module a node runs


def told(self, words):
    KdHpoError.__init__(self, words)
    (EVENTS / f"refused.{os.getpid()}").write_text(words)


Superseded.__init__ = told


class Student(PlainConv):
    """At the n-th pass of a training network, `kill@n`, `raise@n` or `hold@n` happens to whoever takes the file first."""

    passes = 0

    def forward(self, x):
        if self.training:
            self.passes += 1
            for event in sorted(EVENTS.glob(f"*@{self.passes}")):
                try:
                    event.rename(event.with_name(f"{event.name}.{os.getpid()}"))
                except FileNotFoundError:
                    continue  # another trial was faster
                self.happen(event)
                break
        return super().forward(x)

    def happen(self, event):
        if event.name.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if event.name.startswith("raise"):
            raise RuntimeError("the fault of this test")
        while not (EVENTS / "released" / event.name).exists():
            time.sleep(0.01)


def student(input_shape, classes, **arguments):
    return Student(input_shape, classes, **arguments)
'''
KILL, RAISE, HOLD = "kill", "raise", "hold"
IN_EPOCH_2 = 20
"""A pass in the middle of the second epoch of a trial from its start: the first epochs have 14 and 13, some for the direction."""
GONE_ON = 10
"""A pass in the middle of the epoch that an attempt begins with which goes on after the first."""
STUDENT = {"network": {"name": "faulty:student", "arguments": {"channels": [4, 4], "hidden": 8, "padding": 1}}}


class FaultyStudy:
    """A study in a folder of its own, whose students have a fault where the test puts one."""

    def __init__(self, home: Path, **changes: object) -> None:
        self.home, self.events = home, home / "events"
        (self.events / "released").mkdir(parents=True)
        (home / "faulty.py").write_text(dedent(MODULE).replace("HOME", str(home)))
        self.study = digits_study(
            home / "runs",
            **{
                "student": {**STUDENT, "layers": ("conv1", "fc")},
                "training": {"epochs": EPOCHS, "batch_size": 32},
                "compare": {"methods": ["hetero"], "seeds": 1},
                "resources": {"cpus_per_trial": 0.5, "concurrent_trials": 2},
                **changes,
            },
        )
        self.folder, self.file = StudyFolder.of(self.study), home / "small.yaml"
        self.file.write_text(self.study.model_dump_json())
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(home), os.environ.get("PYTHONPATH", "")]),
            "RAY_TMPDIR": str(home),
        }

    # ---- faults

    def put(self, what: str, name: str = "", *, at: int = IN_EPOCH_2) -> str:
        """The fault waits for the first student that gets there. Gives its name."""
        event = f"{what}{name}@{at}"
        (self.events / event).touch()
        return event

    def taken(self, event: str) -> list[int]:
        """The processes that the fault has happened to."""
        return [int(path.suffix[1:]) for path in self.events.glob(f"{event}.*")]

    def release(self, event: str) -> None:
        (self.events / "released" / event).touch()

    # ---- commands

    @contextmanager
    def command(self, *words: str) -> Iterator["Command"]:
        with Command(self, words) as command:
            yield command

    def run(self) -> tuple[str, ...]:
        return ("run", str(self.file))

    def resume(self, *more: str) -> tuple[str, ...]:
        return ("resume", "small", "--runs", str(self.study.runs), *more)

    # ---- what there is

    def states(self) -> dict[str, str]:
        return {status.spec.id: status.state for status in self.folder.statuses()}

    def ended(self) -> set[str]:
        return {trial for trial, state in self.states().items() if state in ("completed", "stopped", "failed")}

    def worker(self, trial: str) -> int:
        about = self.folder.about(trial)
        assert about is not None
        return int(about.worker.rpartition(":")[2])

    def trial_of(self, process: int) -> str:
        (trial,) = {trial for trial in self.states() if self.worker(trial) == process and trial not in self.ended()}
        return trial

    def undisturbed(self, status: TrialStatus) -> TrialResult:
        """What the trial comes to where nothing happens to it."""
        sys.path.append(str(self.home))
        try:
            return run_trial(trial_config(self.study, status.spec), lambda record: None, cache=self.folder.cache)
        finally:
            sys.path.remove(str(self.home))

    def must_be_whole(self) -> None:
        """Every trial has ended and is in MLflow exactly once, and its numbers and the export are those of undisturbed ones."""
        statuses = self.folder.statuses()
        assert "running" not in {status.state for status in statuses}
        client = MlflowClient(tracking_uri(self.study))
        runs = list(all_runs(client, open_experiment(self.study)))
        assert Counter(run.data.tags["kd.trial"] for run in runs) == Counter([*(s.spec.id for s in statuses), "summary"])
        assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
        of_trial = {run.data.tags["kd.trial"]: run for run in runs}
        scores = {}
        for status in statuses:
            trial, run = status.spec.id, of_trial[status.spec.id]
            records = self.folder.records(trial)
            assert (run.data.tags["kd.state"], run.info.run_id) == (status.state, self.folder.run_id(trial, "mlflow"))
            history = client.get_metric_history(run.info.run_id, "val/accuracy")
            assert [(m.step, m.value) for m in history] == [(r.epoch, r.metrics["val/accuracy"]) for r in records]
            if status.state != "failed":
                whole = self.undisturbed(status)
                assert records == list(whole.records[: len(records)])
            if status.state == "completed":
                assert self.folder.result(trial) == whole
                scores[trial] = whole.last.metrics["val/accuracy"]
        (exported,) = load_export(self.folder.export).matrices
        assert scores[exported.trial] == max(scores.values())
        whole = self.undisturbed(next(status for status in statuses if status.spec.id == exported.trial))
        assert (exported.weights, exported.held_mean) == (whole.last.weights, whole.held_mean)
        assert exported.mlflow_run_id == of_trial[exported.trial].info.run_id
        names = {"completed": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
        searched = [status for status in statuses if status.spec.kind == "search"]
        known = known_trials(self.folder, "hetero")
        assert [trial.state.name for trial in known] == [names[status.state] for status in searched]
        assert [trial.params for trial in known] == [status.spec.settings for status in searched]
        assert len({repr(trial.params) for trial in known}) == len(known) == self.study.search.trials


class Command:
    """A kd-hpo command as a process of its own, in a process group of its own."""

    def __init__(self, faulty: FaultyStudy, words: tuple[str, ...]) -> None:
        self._told = (faulty.home / f"told.{time.monotonic_ns()}").open("w+")
        program = [sys.executable, "-c", "from kd_hpo.cli.main import main; main()", *words]
        self.process = subprocess.Popen(
            program, stdout=self._told, stderr=self._told, env=faulty.environment, cwd=faulty.home, start_new_session=True
        )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._told.close()

    @property
    def told(self) -> str:
        return Path(self._told.name).read_text()

    def until(self, event: Callable[[], object]) -> None:
        """Waits for it. Fails where the command ends before."""
        while not event():
            assert self.process.poll() is None, self.told
            time.sleep(0.02)

    def interrupted(self) -> int:
        """Its exit code after Ctrl-C, which a terminal sends to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait()

    def stopped(self) -> int:
        """Its exit code after SIGTERM to all of its process group, as systemd and `timeout` send it."""
        os.killpg(self.process.pid, signal.SIGTERM)
        return self.process.wait()

    def ended(self, code: int = 0) -> str:
        """Waits for its end; gives what it told."""
        assert self.process.wait() == code, self.told
        assert "Traceback" not in self.told, self.told
        return self.told


@contextmanager
def faulty_study(**changes: object) -> Iterator[FaultyStudy]:
    """Its folder's name is short, since Ray keeps Unix sockets below it."""
    home = Path(mkdtemp(prefix="kf", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(home))
        yield FaultyStudy(home, **changes)
    subprocess.run(["rm", "-rf", str(home)], check=False)
