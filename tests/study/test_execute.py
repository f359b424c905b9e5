"""One trial of a study as a Ray worker runs it, without Ray: how it ends, and that folder and MLflow agree on it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.trial import CrossLayerAttention, FixedMatrix, LearnedWeights, NoPairs, Uniform
from kd_hpo.errors import ConfigError
from kd_hpo.study import execute as module
from kd_hpo.study.execute import execute, trial_config
from kd_hpo.study.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.tracking import all_runs, open_experiment, tracking_uri
from kd_hpo.trial.methods import METHODS
from tests.conftest import digits_study

SEARCHED = {"training.optimizer.lr": 0.03, "kd.weight": 1.7, "weighting.step": 0.2}


def spec_of(method: str = "learned", *, seed: int = 4, **settings: Any) -> TrialSpec:
    return TrialSpec(id="trial-000", kind="search", method=method, seed=seed, settings=settings)


# the configuration of a trial


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_searched_settings_that_it_knows(tmp_path: Path, method: str) -> None:
    config = trial_config(digits_study(tmp_path), spec_of(method, **SEARCHED))
    assert config.training.optimizer.lr == 0.03
    assert config.kd.weight == (0 if method == "ce" else 1.7)
    assert config.seed == 4
    if method in ("learned", "as_given"):
        assert isinstance(config.weighting, LearnedWeights) and config.weighting.step == 0.2
    else:
        assert config.weighting.kind != "learned"


def test_own_method_starts_from_its_base_and_sets_over_what_was_searched(tmp_path: Path) -> None:
    methods = [
        {"name": "strong", "base": "uniform", "set": {"kd.weight": 9.0}},
        {"name": "one", "base": "kd", "set": {"weighting": {"kind": "fixed", "matrix": [[1, 0], [0, 0], [0, 0]]}}},
        {"name": "slow", "base": "semckd", "set": {"weighting.lr": 1e-5}},
    ]
    study = digits_study(tmp_path, compare={"methods": methods, "seeds": 1})
    strong, one, slow = (trial_config(study, spec_of(name, **SEARCHED)) for name in ("strong", "one", "slow"))
    assert strong.weighting == Uniform() and strong.kd.weight == 9.0 and strong.training.optimizer.lr == 0.03
    assert isinstance(one.weighting, FixedMatrix) and one.kd.weight == 1.7
    assert slow.weighting == CrossLayerAttention(lr=1e-5)


def test_search_of_another_method_searches_its_own_settings(tmp_path: Path) -> None:
    methods = ["ce", {"name": "att", "base": "semckd", "set": {}}]
    study = digits_study(
        tmp_path,
        weighting={"kind": "attention"},
        search={"method": "att", "space": {"weighting.lr": {"kind": "uniform", "low": 0.001, "high": 0.1}}},
        compare={"methods": methods, "seeds": 1},
    )
    assert trial_config(study, spec_of("ce", **{"weighting.lr": 0.05})).weighting == NoPairs()


def test_unknown_method_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no method 'learnt'; there are .*ce, kd, .*learned"):
        trial_config(digits_study(tmp_path), spec_of("learnt"))


def test_trials_that_differ_in_searched_settings_share_what_is_prepared(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    one, two = (module._shared_settings(trial_config(study, spec_of(**{**SEARCHED, "kd.weight": w}))) for w in (1.0, 2.0))
    other_seed = module._shared_settings(trial_config(study, spec_of("ce", seed=9, **{"training.optimizer.lr": 0.1})))
    assert one == two == other_seed
    inside = digits_study(tmp_path, pairs={"logits": "inside"})
    assert module._shared_settings(trial_config(inside, spec_of())) != one


# a trial that runs


class Worker:
    def __init__(self, study: StudyConfig) -> None:
        self.study, self.folder, self.experiment = study, StudyFolder.of(study), open_experiment(study)
        self.reports: list[dict[str, float]] = []

    def execute(self, spec: TrialSpec, report: Callable[[dict[str, float]], None] | None = None) -> None:
        execute(
            {"spec": spec.model_dump(mode="json")},
            study_json=self.study.model_dump_json(),
            experiment=self.experiment,
            commit="",
            report=report or self.reports.append,
        )

    @property
    def status(self) -> TrialStatus:
        (status,) = self.folder.statuses()
        return status

    @property
    def run(self) -> Run:
        (run,) = all_runs(MlflowClient(tracking_uri(self.study)), self.experiment)
        return run

    def epochs_tracked(self) -> list[int]:
        client = MlflowClient(tracking_uri(self.study))
        return [metric.step for metric in client.get_metric_history(self.run.info.run_id, "val/accuracy")]


@pytest.fixture
def worker(tracked: StudyConfig, cache: Path) -> Worker:
    (tracked.runs / "cache").symlink_to(cache)
    return Worker(tracked)


def test_completed_trial(worker: Worker) -> None:
    worker.execute(spec_of(**SEARCHED))
    assert [report["epoch"] for report in worker.reports] == [1, 2, 3, 4]
    records = worker.folder.records("trial-000")
    assert [report["val/accuracy"] for report in worker.reports] == [r.metrics["val/accuracy"] for r in records]
    assert (worker.status.state, worker.status.message) == ("completed", "")
    assert worker.status.duration_s > 0
    assert worker.folder.result("trial-000").records == tuple(records)
    assert (worker.run.data.tags["kd.state"], worker.run.info.status) == ("completed", "FINISHED")
    assert worker.run.data.tags["kd.worker"].endswith(f":{os.getpid()}")
    assert worker.epochs_tracked() == [1, 2, 3, 4]


def test_all_is_written_before_the_last_report(worker: Worker) -> None:
    """Ray may end a trial inside its last report."""
    seen: list[tuple[str, str]] = []

    def last_one_ends(metrics: dict[str, float]) -> None:
        seen.append((worker.status.state, worker.run.info.status))
        if metrics["epoch"] == 4:
            raise SystemExit

    with pytest.raises(SystemExit):
        worker.execute(spec_of(), last_one_ends)
    assert seen[-1] == ("completed", "FINISHED")
    assert (worker.status.state, worker.run.data.tags["kd.state"]) == ("completed", "completed")


def test_trial_that_the_scheduler_stops(worker: Worker) -> None:
    """The driver writes `stopped`, as Board does, before Ray ends the trial inside a report."""

    def stop_after_two(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            worker.folder.write_status(worker.status.replace(state="stopped", message="after epoch 2, by the scheduler"))
            raise SystemExit

    with pytest.raises(SystemExit):
        worker.execute(spec_of(), stop_after_two)
    assert (worker.status.state, worker.status.message) == ("stopped", "after epoch 2, by the scheduler")
    assert worker.status.duration_s > 0
    assert (worker.run.data.tags["kd.state"], worker.run.info.status) == ("stopped", "FINISHED")
    assert len(worker.folder.records("trial-000")) == 2
    assert worker.epochs_tracked() == [1, 2]


def test_interrupted_trial_is_not_stopped_and_goes_on_later(worker: Worker) -> None:
    """Ctrl-C at the driver ends the trial in a report too, and nobody has written `stopped`."""

    def interrupt_after_two(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            raise SystemExit

    with pytest.raises(SystemExit):
        worker.execute(spec_of(), interrupt_after_two)
    assert worker.status.state == "running"
    assert (worker.run.data.tags["kd.state"], worker.run.info.status) == ("interrupted", "KILLED")

    worker.execute(spec_of())
    assert [report["epoch"] for report in worker.reports] == [1, 2, 3, 4]
    assert worker.status.state == "completed"
    assert (worker.run.data.tags["kd.state"], worker.run.info.status) == ("completed", "FINISHED")
    assert worker.epochs_tracked() == [1, 2, 3, 4]


def test_divergence_fails_the_trial_with_its_message_and_does_not_raise(worker: Worker) -> None:
    worker.execute(spec_of(**{"training.optimizer.lr": 1e18}))
    assert worker.status.state == "failed"
    assert "not finite at step" in worker.status.message and "'lr': 1e+18" in worker.status.message
    assert (worker.run.data.tags["kd.state"], worker.run.info.status) == ("failed", "FAILED")
    assert worker.status.message in worker.run.data.tags["mlflow.note.content"]


def test_settings_that_do_not_go_together_fail_the_trial(worker: Worker) -> None:
    worker.execute(spec_of(**{"pairs.variance.start": 1e-4}))
    assert worker.status.state == "failed"
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
    assert worker.epochs_tracked() == [1, 2, 3, 4]


def test_trial_goes_on_where_mlflow_does_not_answer(worker: Worker) -> None:
    worker.study = worker.study.replace(tracking={"uri": f"sqlite:///{worker.study.runs}/none/none.db"})
    (worker.study.runs / "none").write_text("no folder")
    worker.execute(spec_of())
    assert worker.status.state == "completed"
    assert worker.folder.run_id("trial-000") is None
