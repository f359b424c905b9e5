"""What MLflow holds of a trial, against a real SQLite database: everything once, whatever happened on the way."""

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import ConfigError, StudyError
from kd_hpo.study.folder import State, StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.tracking import (
    MATRIX_SECTION,
    MlflowTracker,
    PairLayers,
    all_runs,
    experiment_link,
    layers_of,
    mirror,
    mlflow_answering,
    open_experiment,
    tracking_uri,
    write_summary,
)
from kd_hpo.trial.prepare import Prepared
from kd_hpo.trial.result import EpochRecord
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import UNIFORM, S, T, record

SPEC = TrialSpec(
    id="hetero-t000", kind="search", method="hetero", seed=3, settings={"kd.weight": 1.23456789, "pairs.logits": "outside"}
)
TILTED = ((0.5, 0.1), (0.1, 0.1), (0.1, 0.1))
RECORDS = [record(1, 0.4, held=False), record(2, 0.6, TILTED), record(3, 0.5, TILTED)]


class Tracked:
    """A study with its experiment, and what its trials' runs look like from outside."""

    def __init__(self, study: StudyConfig, prepared: Prepared) -> None:
        self.study, self.prepared = study, prepared
        self.experiment = open_experiment(study)
        self.client = MlflowClient(tracking_uri(study))
        self.folder = StudyFolder.of(study)

    def tracker(self, spec: TrialSpec = SPEC) -> MlflowTracker:
        return MlflowTracker(self.study, self.experiment, spec, digits_trial(), self.prepared, "c0ffee")

    def track(self, state: State = "completed", records: list[EpochRecord] = RECORDS) -> Exception | None:
        """A whole trial, its records in the folder too, as `execute` does it."""
        tracker = self.tracker()
        self.folder.write_status(TrialStatus(spec=SPEC, state="running"))
        for each in records:
            tracker.log(each)
        return self.end(tracker, state, records)

    def end(self, tracker: MlflowTracker, state: State, records: list[EpochRecord]) -> Exception | None:
        status = TrialStatus(spec=SPEC, state=state, message="why")
        self.folder.write_records(SPEC.id, records)
        self.folder.write_status(status)
        return tracker.finish(status)

    def mirror(self, config: TrialConfig | None = None) -> None:
        mirror(
            self.study,
            self.experiment,
            self.prepared,
            lambda spec: config or digits_trial(),
            lambda _: self.prepared.plan,
            "c0ffee",
        )

    @property
    def run(self) -> Run:
        (run,) = all_runs(self.client, self.experiment)
        return run

    def history(self, metric: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(self.run.info.run_id, metric)]

    def artifact(self, path: str) -> str:
        return Path(self.client.download_artifacts(self.run.info.run_id, path)).read_text()

    def picture_steps(self) -> list[int]:
        """The steps of the pictures under the key `lambda`, thumbnails aside."""
        names = [Path(file.path).name for file in self.client.list_artifacts(self.run.info.run_id, "images")]
        found = [re.match(r"lambda[%+]step[%+](\d+)[%+]", name) for name in names if name.endswith(".png")]
        return sorted(int(match[1]) for match in found if match)


@pytest.fixture
def here(tracked: StudyConfig, prepared: Prepared) -> Tracked:
    return Tracked(tracked, prepared)


def test_run_of_a_trial_holds_everything_once(here: Tracked) -> None:
    assert here.track() is None
    run = here.run
    assert (run.info.run_name, run.info.status) == ("hetero-t000", "FINISHED")
    assert run.data.params == {"method": "hetero", "seed": "3", "kd.weight": "1.23457", "pairs.logits": "outside"}
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("kd.")}
    assert tags["kd.worker"].rpartition(":")[2].isdigit()
    assert {name: tags[name] for name in ("kd.study", "kd.kind", "kd.trial", "kd.method", "kd.state")} == {
        "kd.study": "small",
        "kd.kind": "search",
        "kd.trial": "hetero-t000",
        "kd.method": "hetero",
        "kd.state": "completed",
    }
    assert {f"kd.split.{name}": digest for name, digest in here.prepared.splits.digests.items()}.items() <= tags.items()
    assert tags["kd.teacher"] == here.prepared.teacher_digest
    assert set(tags) >= {"kd.version.torch", "kd.version.ray", "kd.version.optuna", "kd.version.mlflow", "kd.version.kd_hpo"}
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert "completed why" in run.data.tags["mlflow.note.content"]
    assert "0.5000 after epoch 3, at best 0.6000 after epoch 2" in run.data.tags["mlflow.note.content"]
    assert here.folder.run_id("hetero-t000") == run.info.run_id


def test_every_epoch_has_its_metrics_and_the_whole_matrix(here: Tracked) -> None:
    here.track()
    for name in RECORDS[0].metrics:
        assert here.history(name) == [(r.epoch, r.metrics[name]) for r in RECORDS]
    cells = sorted(name for name in here.run.data.metrics if name.startswith(MATRIX_SECTION))
    assert len(cells) == T * S
    assert cells[0] == "weights_matrix/01 conv1 to 01 conv1" and cells[-1] == "weights_matrix/03 fc to 02 fc"
    for cell, (t, s) in zip(cells, [(t, s) for t in range(T) for s in range(S)], strict=True):
        assert here.history(cell) == [(r.epoch, pytest.approx(r.weights[t][s])) for r in RECORDS]
    assert max(name for name in here.run.data.metrics if name not in cells) < MATRIX_SECTION  # sorts behind


def test_artifacts_show_the_matrix_over_time(here: Tracked) -> None:
    here.track()
    assert here.picture_steps() == [0, 1, 2, 3]  # 0 is the start, where MLflow's slider stands first
    page = here.artifact("lambda.html")
    assert "conv2" in page and "<script" in page and "http" not in page.replace("http://www.w3.org", "")
    told = json.loads(here.artifact("lambda.json"), parse_constant=pytest.fail)
    assert (told["teacher_layers"], told["student_layers"]) == (["conv1", "conv2", "fc"], ["conv1", "fc"])
    assert [epoch["epoch"] for epoch in told["epochs"]] == [1, 2, 3]
    assert told["epochs"][1] == {"epoch": 2, "weights": [list(row) for row in TILTED], "scales": [list(row) for row in TILTED]}
    assert told["held_epochs"] == [2, 3]
    assert told["held_mean"] == [pytest.approx(row) for row in TILTED]
    assert TrialConfig.model_validate(yaml.safe_load(here.artifact("config.yaml"))) == digits_trial()
    (data,) = here.run.inputs.dataset_inputs
    assert data.dataset.name == here.prepared.batches.images.name
    assert here.prepared.batches.images.digest.startswith(data.dataset.digest)


def test_an_epoch_is_one_call_for_all_its_metrics(here: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: Any = (), **rest: Any) -> Any:
        if metrics:
            calls.append(len(metrics))
        return log_batch(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    monkeypatch.setattr(MlflowClient, "log_metric", lambda *args, **rest: pytest.fail("a metric by itself"))
    here.track()
    assert calls == [len(RECORDS[0].metrics) + T * S] * 3


def test_trial_without_pairs_has_no_matrix(here: Tracked) -> None:
    here.track(records=[record(1, 0.4, ())])
    assert not [name for name in here.run.data.metrics if name.startswith(MATRIX_SECTION)]
    assert [file.path for file in here.client.list_artifacts(here.run.info.run_id)] == ["config.yaml", "layers.json"]


@pytest.mark.parametrize(("state", "expected"), [("completed", "FINISHED"), ("stopped", "FINISHED"), ("failed", "FAILED")])
def test_state_of_the_run_is_that_of_the_trial(here: Tracked, state: State, expected: str) -> None:
    here.track(state)
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == (expected, state)
    before = here.run
    here.mirror()
    assert here.run.info.end_time == before.info.end_time  # there was nothing to do


def test_continued_trial_continues_its_run_and_logs_no_epoch_twice(here: Tracked) -> None:
    first = here.tracker()
    first.log(RECORDS[0])
    first.log(RECORDS[1])
    first.close()  # may drop what is not written yet, as a process that dies does
    here.track()
    assert here.history("val/accuracy") == [(1, 0.4), (2, 0.6), (3, 0.5)]
    assert here.picture_steps() == [0, 1, 2, 3]  # 0 is the start, where MLflow's slider stands first
    assert len(here.run.inputs.dataset_inputs) == 1


def test_trial_that_was_left_running_is_interrupted_and_runs_again_when_it_goes_on(here: Tracked) -> None:
    tracker = here.tracker()
    here.folder.write_status(TrialStatus(spec=SPEC, state="running"))
    here.folder.write_records(SPEC.id, RECORDS[:2])
    tracker.log(RECORDS[0])
    tracker._thread.shutdown(wait=True)  # the process dies here
    assert here.run.info.status == "RUNNING"
    here.mirror()
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("KILLED", "interrupted")
    assert [step for step, _ in here.history("val/accuracy")] == [1, 2]

    tracker = here.tracker()
    tracker.log(RECORDS[0])
    tracker._thread.shutdown(wait=True)
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("RUNNING", "running")
    here.track()
    here.mirror()
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("FINISHED", "completed")
    assert [step for step, _ in here.history("val/accuracy")] == [1, 2, 3]


CALLS = ["create_run", "log_batch", "log_inputs", "log_text", "log_image", "set_terminated"]


@pytest.fixture(params=[(call, after) for call in CALLS for after in (0, 1)], ids=lambda param: f"{param[0]}-{param[1]}")
def breaking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """MLflow fails in one call from the first or the second time on, until the patch is undone."""
    name, after = request.param
    real, calls = getattr(MlflowClient, name), count()

    def broken(self: MlflowClient, *args: Any, **rest: Any) -> Any:
        if next(calls) >= after:
            raise OSError("the tracking server is gone")
        return real(self, *args, **rest)

    monkeypatch.setattr(MlflowClient, name, broken)
    yield monkeypatch


def test_tracker_that_fails_does_not_stop_the_trial_and_mirror_makes_it_good(
    here: Tracked, breaking: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    error = here.track()
    broken_call = request.node.callspec.params["breaking"]
    happened_once = broken_call in (("create_run", 1), ("log_inputs", 1), ("set_terminated", 1))
    assert (error is None) == happened_once  # what is called once does not fail the second time
    breaking.undo()
    here.mirror()
    here.mirror()
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("FINISHED", "completed")
    assert set(here.run.data.params) == {"method", "seed", *SPEC.settings}
    assert len(here.run.inputs.dataset_inputs) == 1
    assert here.history("val/accuracy") == [(1, 0.4), (2, 0.6), (3, 0.5)]
    assert here.history("weights_matrix/01 conv1 to 01 conv1") == [(1, pytest.approx(1 / 6)), (2, 0.5), (3, 0.5)]
    # it failed between a picture and the metrics that say it is there
    shown_twice = {("log_batch", 1): [0, 1], ("log_image", 1): [0]}.get(broken_call, [])
    assert here.picture_steps() == sorted([*shown_twice, 0, 1, 2, 3])
    artifacts = {file.path for file in here.client.list_artifacts(here.run.info.run_id)}
    assert artifacts == {"config.yaml", "images", "lambda.html", "lambda.json", "layers.json"}
    assert here.folder.run_id(SPEC.id) == here.run.info.run_id


def test_mirror_takes_a_trial_whose_settings_make_no_configuration(here: Tracked) -> None:
    """Such a trial failed before it had a run: it must not take the study with it."""
    here.folder.write_status(TrialStatus(spec=SPEC, state="failed", message="start below floor"))

    def refused(spec: TrialSpec) -> TrialConfig:
        raise ConfigError("start below floor")

    mirror(here.study, here.experiment, here.prepared, refused, lambda _: here.prepared.plan, "")
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("FAILED", "failed")
    assert here.run.data.params["kd.weight"] == "1.23457"
    assert "failed start below floor" in here.run.data.tags["mlflow.note.content"]


def test_experiment_is_opened_once_and_holds_its_artifacts_beside_the_database(here: Tracked) -> None:
    assert open_experiment(here.study) == here.experiment
    experiment = here.client.get_experiment(here.experiment)
    assert (experiment.name, experiment.tags["kd.study"]) == ("small", "small")
    assert experiment.artifact_location == (here.study.runs / "mlflow-artifacts" / "small").as_uri()


def test_summary_run_holds_the_comparison_and_the_files(here: Tracked) -> None:
    here.track()
    tuned = TrialSpec(id="kd-t000", kind="search", method="kd", seed=3, settings={"kd.temperature": 2.0})
    here.folder.write_status(TrialStatus(spec=tuned, state="failed"))
    here.folder.write_settings(here.study)
    files = [here.folder.export, *(here.folder.comparison(suffix) for suffix in ("csv", "json", "png"))]
    for file in files:
        file.write_text("{}")
    for _ in range(2):  # a study that is run again writes it again
        write_summary(here.study, here.experiment, here.folder, "| KD | 0.5000 |")
    (summary,) = [run for run in all_runs(here.client, here.experiment) if run.data.tags["kd.kind"] == "summary"]
    assert summary.info.status == "FINISHED"
    assert summary.data.tags["mlflow.note.content"] == "| KD | 0.5000 |"
    artifacts = {file.path for file in here.client.list_artifacts(summary.info.run_id)}
    assert artifacts == {"study.yaml", "outer_settings", *(file.name for file in files)}
    pages = {
        method: Path(here.client.download_artifacts(summary.info.run_id, f"outer_settings/{method}.html")).read_text()
        for method in ("hetero", "kd")
    }
    assert "hetero-t000" in pages["hetero"] and "kd.weight" in pages["hetero"] and "kd-t000" not in pages["hetero"]
    assert "kd-t000" in pages["kd"] and "kd.temperature" in pages["kd"] and "kd.weight" not in pages["kd"]


def test_what_mlflow_refuses_is_a_study_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    study = digits_study(tmp_path)
    with (
        pytest.raises(StudyError, match=r"^MLflow does not work at .*mlflow\.db: .*not a database.*tracking\.uri$"),
        mlflow_answering(study),
    ):
        open_experiment(study)


def test_link_opens_the_charts_of_model_training(tmp_path: Path) -> None:
    tail = "/#/experiments/7/runs?compareRunsMode=CHART&workflowType=machine_learning"
    assert experiment_link(digits_study(tmp_path), "7") == f"http://127.0.0.1:5000{tail}"
    served = digits_study(tmp_path, tracking={"uri": "https://mlflow.example.org/"})
    assert experiment_link(served, "7") == f"https://mlflow.example.org{tail}"


def test_names_are_those_of_the_layers_that_the_trial_has(prepared: Prepared) -> None:
    config = digits_trial(student=digits_trial().student.replace(layers="auto"))
    assert layers_of(config, prepared.plan).names == (("conv1", "conv2", "fc"), ("conv1", "fc"))


def test_layers_that_mlflow_cannot_spell_are_told_apart() -> None:
    cells = PairLayers(["a[0]", "a(0)"], ["b"]).cells([[0.25], [0.75]])
    assert cells == {"weights_matrix/01 a_0_ to 01 b": 0.25, "weights_matrix/02 a_0_ to 01 b": 0.75}
    assert PairLayers(["a"], ["b"]).cells([]) == {}


def test_largest_of_the_pictures_is_the_same_at_every_epoch() -> None:
    assert PairLayers("ab", "cd").largest == 1.0
    assert PairLayers("abcd", "abcd").largest == 0.5
    assert max(max(row) for row in UNIFORM) < PairLayers("abc", "de").largest
