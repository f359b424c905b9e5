"""Whole studies on a real Ray of this machine, with MLflow on a real SQLite file. One study serves most of the tests."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

import jsonschema
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console
from safetensors.torch import load_file

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.matrices.apply import apply
from kd_hpo.study.report.summary import Summary
from kd_hpo.study.run.driver import run_study
from kd_hpo.study.search.journal import known_trials
from kd_hpo.study.store.export_file import SCHEMA, load_export
from kd_hpo.study.store.folder import StudyFolder, TrialStatus
from kd_hpo.study.tracking.runs import all_runs, tracking_uri
from kd_hpo.trial.data import load_data
from kd_hpo.trial.result import EpochRecord
from tests.conftest import digits_study
from tests.security.listening import reachable_from_elsewhere
from tests.study.by_hand import accuracy_by_hand

pytestmark = pytest.mark.service

ABSURD = 1e18
SEARCH = {
    "trials": 4,
    "seed": 3,  # the second trial gets the absurd learning rate: test_absurd_... would say if not
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction_factor": 2},
    "space": {
        "training.optimizer.lr": {"kind": "choice", "values": [0.03, 0.1, ABSURD]},
        "kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0},
    },
}
EPOCHS = 12


@pytest.fixture(scope="module")
def runs() -> Iterator[Path]:
    """Short, since Ray keeps Unix sockets below it; shared, since a teacher and a database serve all studies."""
    folder = Path(mkdtemp(prefix="kd", dir="/tmp"))
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["RAY_TMPDIR"]
    else:
        os.environ["RAY_TMPDIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Killed:
    """What the study's folder held when its driver had been killed, in mid-search."""

    study: StudyConfig
    statuses: dict[str, TrialStatus]
    ended: dict[Path, int]
    """When the epochs and the results of the trials that had ended were written."""
    told: str
    reachable: list[str]
    """Where it listened, Ray with it, for others than this machine."""


@pytest.fixture(scope="module")
def killed(runs: Path) -> Killed:
    """The command runs the study, and dies once a trial has ended well and another one is on its way."""
    study = digits_study(
        runs,
        training={"epochs": EPOCHS, "batch_size": 32},
        search=SEARCH,
        compare={"methods": ["ce", "hetero"], "seeds": 1},
        resources={"cpus_per_trial": 0.5, "concurrent_trials": 2},
    )
    folder, file = StudyFolder.of(study), runs / "small.yaml"
    file.write_text(study.model_dump_json())

    def in_mid_search() -> bool:
        states = {status.spec.id: status.state for status in folder.statuses()}
        ended = {"completed", "stopped"} & set(states.values())
        return bool(ended) and any(0 < len(folder.records(i)) < EPOCHS for i, state in states.items() if state == "running")

    with (runs / "told").open("w+") as told:
        command = [sys.executable, "-c", "from kd_hpo.cli.main import main; main()", "run", str(file)]
        driver = subprocess.Popen(command, stdout=told, stderr=told)
        while not in_mid_search():
            assert driver.poll() is None, told.seek(0) or told.read()
            time.sleep(0.02)
        reachable = reachable_from_elsewhere(driver.pid)
        driver.kill()
        driver.wait()
    statuses = {status.spec.id: status for status in folder.statuses()}
    ended = [folder.trial(trial) for trial, status in statuses.items() if status.state != "running"]
    return Killed(study, statuses, written(*ended), (runs / "told").read_text(), reachable)


@dataclass(frozen=True)
class Finished:
    study: StudyConfig
    folder: StudyFolder
    summary: Summary
    told: str
    """By both drivers."""


@pytest.fixture(scope="module")
def finished(killed: Killed) -> Finished:
    told = StringIO()
    summary = run_study(killed.study, Console(file=told, width=200, soft_wrap=True))
    return Finished(killed.study, StudyFolder.of(killed.study), summary, killed.told + told.getvalue())


def written(*folders: Path) -> dict[Path, int]:
    """records.json and result.json below the folders, and when each was written."""
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.name.startswith("re")}


def runs_of(study: StudyConfig) -> list[Run]:
    client = MlflowClient(tracking_uri(study))
    return list(all_runs(client, client.get_experiment_by_name(study.name).experiment_id))


def by_trial(study: StudyConfig) -> dict[str, Run]:
    found = runs_of(study)
    assert len({run.data.tags["kd.trial"] for run in found}) == len(found)  # one run a trial
    return {run.data.tags["kd.trial"]: run for run in found}


def test_mlflow_holds_one_ended_run_a_trial_and_a_summary(finished: Finished) -> None:
    found = by_trial(finished.study)
    assert Counter(run.data.tags["kd.kind"] for run in found.values()) == {"search": 4, "compare": 2, "summary": 1}
    assert {run.info.status for run in found.values()} <= {"FINISHED", "FAILED"}
    for status in finished.folder.statuses():
        run = found[status.spec.id]
        assert run.data.tags["kd.state"] == status.state
        assert run.info.run_id == finished.folder.run_id(status.spec.id, "mlflow")
        history = MlflowClient(tracking_uri(finished.study)).get_metric_history(run.info.run_id, "val/accuracy")
        records = finished.folder.records(status.spec.id)
        assert [(m.step, m.value) for m in history] == [(r.epoch, r.metrics["val/accuracy"]) for r in records]


def test_trials_ran_on_two_worker_processes(finished: Finished) -> None:
    workers = {run.data.tags["kd.worker"] for run in runs_of(finished.study) if run.data.tags["kd.kind"] == "search"}
    assert len(workers) >= 2
    assert str(os.getpid()) not in {worker.rpartition(":")[2] for worker in workers}


def test_a_killed_study_goes_on_and_repeats_nothing(killed: Killed, finished: Finished) -> None:
    """Its driver was killed: what was running goes on from its checkpoint, what had ended stays as it was."""
    assert "running" in {status.state for status in killed.statuses.values()} and killed.ended
    for trial, before in killed.statuses.items():
        now = finished.folder.status(trial)
        assert now is not None and now.spec == before.spec
        assert now.state != "running" and before.state in ("running", now.state)
    assert written(*{path.parent for path in killed.ended}) == killed.ended
    suggested = [json.dumps(trial.params) for trial in known_trials(finished.folder, "hetero")]
    assert len(suggested) == len(set(suggested)) == 4


def test_ray_listens_on_loopback_only(killed: Killed) -> None:
    assert killed.reachable == []


def test_absurd_settings_fail_with_their_message_and_the_study_goes_on(finished: Finished) -> None:
    searched = [status for status in finished.folder.statuses() if status.spec.kind == "search"]
    compared_at = {status.spec.seed for status in finished.folder.statuses() if status.spec.kind == "compare"}
    assert compared_at and compared_at.isdisjoint(status.spec.seed for status in searched)
    absurd = [status for status in searched if status.spec.settings["training.optimizer.lr"] == ABSURD]
    assert 1 <= len(absurd) <= 3
    for status in absurd:
        assert status.state == "failed"
        assert "not finite at step" in status.message and "training.optimizer.lr 1e+18" in status.message
        assert f"{status.spec.id} failed: {status.message}" in finished.told  # by the next driver, where the first died before
        assert status.message in by_trial(finished.study)[status.spec.id].data.tags["mlflow.note.content"]
    assert {status.state for status in searched if status not in absurd} <= {"completed", "stopped"}
    optuna_states = {trial.number: trial.state.name for trial in known_trials(finished.folder, "hetero")}
    names = {"completed": "COMPLETE", "stopped": "PRUNED", "failed": "COMPLETE"}  # with the worst value
    assert optuna_states == {int(status.spec.id[-3:]): names[status.state] for status in searched}


def test_summary_holds_every_method(finished: Finished) -> None:
    frame = finished.summary.comparison.frame()
    assert list(frame["method"]) == ["ce", "hetero"]
    assert frame["test"].between(0, 1, inclusive="right").all()
    assert list(frame["tuning"]) == ["the settings that 4 trials of hetero found", "4 trials of its own over 2 settings"]
    learned = finished.summary.learned
    assert learned is not None and sum(map(sum, learned.matrix)) == pytest.approx(1, abs=1e-4)
    summary = by_trial(finished.study)["summary"]
    client = MlflowClient(tracking_uri(finished.study))
    artifacts = {file.path for file in client.list_artifacts(summary.info.run_id)}
    comparison = {"comparison.csv", "comparison.json", "comparison.png"}
    assert artifacts == {*comparison, "lambda.json", "outer_settings", "study.yaml"}
    assert frame["title"][1] in summary.data.tags["mlflow.note.content"]


def test_numbers_of_the_table_are_those_of_the_saved_weights(finished: Finished) -> None:
    """Worked out from the files of the weights and the raw images."""
    _, splits = load_data(finished.study.trial(), finished.folder.cache, lambda _: None)
    rows = {row["method"]: row for row in json.loads(finished.folder.comparison("json").read_text())["methods"]}
    for method in ("ce", "hetero"):
        trial = finished.folder.trial(f"{method}-s0")
        last, best = (
            accuracy_by_hand(trial / name, splits.test, splits.train) for name in ("last.safetensors", "best.safetensors")
        )
        assert (rows[method]["test"], rows[method]["test_best"]) == (last, best)
        assert rows[method]["by_seed"]["0"]["test"] == last


def test_export_validates_and_its_matrix_trains_a_student(finished: Finished, tmp_path: Path) -> None:
    jsonschema.validate(json.loads(finished.folder.export.read_text()), json.loads(SCHEMA.read_text()))
    export = load_export(finished.folder.export)
    told: list[EpochRecord] = []
    applied = apply(
        finished.folder.export,
        form="held",
        overrides=("training.epochs=2",),
        folder=tmp_path,
        runs=finished.study.runs,
        report=lambda form, record: told.append(record),
    )
    assert applied.same_teacher
    assert [record.epoch for record in told] == [1, 2]
    assert np.allclose(told[-1].weights, export.matrices[0].held_mean, atol=1e-6)
    assert "outer/accuracy" not in told[-1].metrics  # that split trains the student now
    assert applied.test is None
    assert set(load_file(applied.weights)) == set(load_file(finished.folder.trial(export.matrices[0].trial) / "last.safetensors"))


def test_running_it_again_runs_nothing_again(finished: Finished) -> None:
    def ended() -> dict[str, int]:
        return {trial: run.info.end_time for trial, run in by_trial(finished.study).items() if trial != "summary"}

    trials = finished.folder.root / "trials"
    before, runs_before = written(trials), ended()
    again = run_study(finished.study, Console(file=StringIO()))
    assert again.comparison == finished.summary.comparison
    assert written(trials) == before
    assert ended() == runs_before
    assert len(known_trials(finished.folder, "hetero")) == 4


def test_another_study_of_the_name_is_refused(finished: Finished) -> None:
    other = finished.study.replace(kd={"weight": 5.0})
    with pytest.raises(
        StudyError, match=r"'small' is in .* already, with another kd\.weight\. .*--set name=.*kd-hpo resume small"
    ):
        run_study(other, Console(file=StringIO()))
    assert finished.folder.read_settings() == finished.study
