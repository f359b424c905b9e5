"""One trial of a study as a Ray worker runs it, without Ray: how it ends, and that folder and MLflow agree on it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.design.trials import trial_config
from kd_hpo.study.run.worker import execute, prepared_for
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.store.lease import Superseded
from tests.conftest import digits_study
from tests.study.helpers import LEARNED

SEARCHED = {"training.optimizer.lr": 0.03, "kd.weight": 1.7, "weighting.step": 0.2}


def spec_of(method: str = LEARNED, *, seed: int = 4, **settings: Any) -> TrialSpec:
    return TrialSpec(id="trial-000", kind="search", method=method, seed=seed, settings=settings)


def test_trials_that_differ_in_searched_settings_share_what_is_prepared(tmp_path: Path, cache: Path) -> None:
    study = digits_study(tmp_path)
    one, two = (prepared_for(trial_config(study, spec_of(**{**SEARCHED, "kd.weight": w})), cache) for w in (1.0, 2.0))
    other_seed = prepared_for(trial_config(study, spec_of("uniform", seed=9, **{"training.optimizer.lr": 0.1})), cache)
    assert one is two is other_seed
    kd, ce = (prepared_for(trial_config(study, spec_of(method)), cache) for method in ("kd", "ce"))
    assert kd is ce is not one
    inside = digits_study(tmp_path, pairs={"logits": "inside"})
    assert prepared_for(trial_config(inside, spec_of()), cache).plan.shape == (4, 3)


@pytest.mark.parametrize(("setting", "value"), [("channels_last", True), ("precision", "bfloat16"), ("workers", 1)])
def test_what_is_prepared_is_as_the_trial_asks_for(tmp_path: Path, cache: Path, setting: str, value: object) -> None:
    """How images are laid out, in what precision and by how many processes is the study's word for every trial."""
    study = digits_study(tmp_path, **{setting: value})
    config = trial_config(study, spec_of())
    plain, asked = prepared_for(trial_config(digits_study(tmp_path), spec_of()), cache), prepared_for(config, cache)
    assert getattr(config, setting) == value and asked is not plain
    told = {
        "channels_last": asked.batches.memory_format is torch.channels_last,
        "precision": asked.batches.precision,
        "workers": asked.batches._workers,
    }
    assert told[setting] == value
    assert plain.batches.memory_format is torch.contiguous_format and plain.batches.precision == "float32"


# a trial that runs


class Worker:
    def __init__(self, study: StudyConfig) -> None:
        self.study, self.folder = study, StudyFolder.of(study)
        self.reports: list[dict[str, float]] = []

    def execute(self, spec: TrialSpec, report: Callable[[dict[str, float]], None] | None = None) -> None:
        execute(
            {"spec": spec.model_dump(mode="json")},
            study_json=self.study.model_dump_json(),
            report=report or self.reports.append,
        )

    @property
    def status(self) -> TrialStatus:
        (status,) = self.folder.statuses()
        return status


@pytest.fixture
def worker(tmp_path: Path, cache: Path) -> Worker:
    (tmp_path / "cache").symlink_to(cache)
    return Worker(digits_study(tmp_path))


def test_completed_trial(worker: Worker) -> None:
    worker.execute(spec_of(**SEARCHED))
    assert [report["epoch"] for report in worker.reports] == [1, 2, 3, 4]
    records = worker.folder.records("trial-000")
    assert [report["val/accuracy"] for report in worker.reports] == [r.metrics["val/accuracy"] for r in records]
    assert (worker.status.state, worker.status.message) == ("completed", "")
    assert worker.status.duration_s > 0
    assert worker.folder.result("trial-000").records == tuple(records)
    assert worker.folder.about("trial-000").worker.endswith(f":{os.getpid()}")
    assert [record.epoch for record in worker.folder.records("trial-000")] == [1, 2, 3, 4]


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (2.0, 2)])
def test_a_trial_has_as_many_threads_as_cpus(worker: Worker, cpus: float, threads: int) -> None:
    worker.study = worker.study.replace(resources={"cpus_per_trial": cpus})
    before, told = torch.get_num_threads(), list[int]()
    torch.set_num_threads(3)
    try:
        worker.execute(spec_of(), lambda metrics: told.append(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert set(told) == {threads}


def test_all_is_written_before_the_last_report(worker: Worker) -> None:
    """Ray may end a trial inside its last report."""
    seen: list[tuple[str, bool]] = []

    def last_one_ends(metrics: dict[str, float]) -> None:
        seen.append((worker.status.state, (worker.folder.trial("trial-000") / "result.json").is_file()))
        if metrics["epoch"] == 4:
            raise SystemExit

    with pytest.raises(SystemExit):
        worker.execute(spec_of(), last_one_ends)
    assert seen[-1] == ("completed", True)


def test_trial_that_the_scheduler_stops(worker: Worker) -> None:
    """The driver writes `stopped`, as StatusKeeper does, before Ray ends the trial inside a report."""

    def stop_after_two(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            worker.folder.write_status(worker.status.replace(state="stopped", message="after epoch 2, by the scheduler"))
            raise SystemExit

    with pytest.raises(SystemExit):
        worker.execute(spec_of(), stop_after_two)
    assert (worker.status.state, worker.status.message) == ("stopped", "after epoch 2, by the scheduler")
    assert worker.status.duration_s > 0
    assert len(worker.folder.records("trial-000")) == 2
    assert [record.epoch for record in worker.folder.records("trial-000")] == [1, 2]


def test_interrupted_trial_is_not_stopped_and_goes_on_later(worker: Worker) -> None:
    """Ctrl-C at the driver ends the trial in a report too, and nobody has written `stopped`."""

    def interrupt_after_two(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        worker.execute(spec_of(), interrupt_after_two)
    assert worker.status.state == "running"

    worker.execute(spec_of())
    assert [report["epoch"] for report in worker.reports] == [1, 2, 3, 4]
    assert worker.status.state == "completed"
    assert [record.epoch for record in worker.folder.records("trial-000")] == [1, 2, 3, 4]


def test_divergence_fails_the_trial_with_its_message_and_does_not_raise(worker: Worker) -> None:
    worker.execute(spec_of(**{"training.optimizer.lr": 1e18}))
    assert worker.status.state == "failed"
    assert "not finite at step" in worker.status.message and "training.optimizer.lr 1e+18" in worker.status.message
    assert worker.status.of_settings


def test_settings_that_do_not_go_together_fail_the_trial(worker: Worker) -> None:
    worker.execute(spec_of(**{"pairs.loss.variance.start": 1e-4}))
    assert worker.status.state == "failed" and worker.status.of_settings
    assert "not above its floor" in worker.status.message
    assert worker.reports == []


def test_any_other_error_goes_on_to_ray_and_the_next_attempt_continues(worker: Worker) -> None:
    def break_after_two(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        worker.execute(spec_of(), break_after_two)
    assert worker.status.state == "running"  # Ray decides whether it is tried again
    worker.execute(spec_of())
    assert worker.status.state == "completed"
    assert [record.epoch for record in worker.folder.records("trial-000")] == [1, 2, 3, 4]


OWN_LOSS = """from kd_hpo.core.comparisons import Comparison
from kd_hpo.core.normalisation import unit_rows


def summary(rows):
    return unit_rows(rows.flatten(1))[:, :odd]


def loss():
    return Comparison(summary, lambda student, teacher: student - teacher)
"""


def test_error_of_a_users_own_code_is_told_with_its_place_and_kept_whole(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    file = worker.study.runs / "own_loss_of_this_test.py"
    file.write_text(OWN_LOSS)
    monkeypatch.syspath_prepend(file.parent)
    loss = {"kind": "callable", "callable": "own_loss_of_this_test:loss"}
    worker.study = worker.study.replace(pairs={"loss": loss}, weighting={"kind": "uniform"})
    with pytest.raises(NameError):
        worker.execute(spec_of("uniform"))
    log = worker.folder.log("trial-000")
    assert worker.status.state == "running"  # Ray decides whether it is tried again
    assert worker.status.message == (
        f"NameError: name 'odd' is not defined ({file}:6, in summary); the whole traceback is in {log}"
    )
    told = log.read_text()
    assert "\nTraceback (most recent call last):\n" in told and "run_epoch" in told
    with pytest.raises(NameError):
        worker.execute(spec_of("uniform"))  # as Ray starts it again
    assert log.read_text().startswith(told) and "\n--- attempt 2 of trial-000, in process " in log.read_text()


def test_attempt_that_was_taken_over_writes_nothing_more(worker: Worker) -> None:
    """Ray has given its process up, which lives on where its node was cut off, and started the trial again."""
    whole = Worker(worker.study.replace(name="undisturbed"))
    whole.execute(spec_of())

    def overtaken_after_two(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            worker.execute(spec_of())

    with pytest.raises(Superseded, match="trial-000 was taken over by another process"):
        worker.execute(spec_of(), overtaken_after_two)
    assert worker.status.state == "completed"
    assert worker.folder.result("trial-000") == whole.folder.result("trial-000")
    assert "Traceback" not in worker.folder.log("trial-000").read_text()
