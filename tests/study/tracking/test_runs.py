"""What MLflow holds of a trial, against a real SQLite database: everything once, whatever happened on the way."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Classification
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import LearnedWeights, Uniform
from kd_hpo.errors import StudyError
from kd_hpo.study.environment import git_commit
from kd_hpo.study.run.worker import about_trial
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.tracking import runs as tracking
from kd_hpo.study.tracking.runs import (
    MATRIX_SECTION,
    PairLayers,
    RunLog,
    all_runs,
    experiment_link,
    layers_of,
    open_experiment,
    start_of,
    tracking_uri,
    write_summary,
)
from kd_hpo.study.tracking.sync import TrackerSync
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.result import EpochRecord
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import UNIFORM, S, T, record

SPEC = TrialSpec(
    id="hetero-t000", kind="search", method="hetero", seed=3, settings={"kd.weight": 1.23456789, "pairs.logits": "outside"}
)
TILTED = ((0.5, 0.1), (0.1, 0.1), (0.1, 0.1))
RECORDS = [record(1, 0.4, held=False), record(2, 0.6, TILTED), record(3, 0.5, TILTED)]


class Tracked:
    """A study whose folder is written by hand, and what its trials' runs look like in MLflow."""

    def __init__(self, study: StudyConfig, prepared: Prepared) -> None:
        self.study, self.prepared = study, prepared
        self.folder = StudyFolder.of(study)
        self.experiment = open_experiment(study)
        self.client = MlflowClient(tracking_uri(study))
        self.mirror = TrackerSync(study)

    def begin(self, config: TrialConfig | None = None) -> None:
        about = about_trial(config or digits_trial(), self.prepared)
        self.folder.write_about(SPEC.id, about)
        self.folder.write_status(TrialStatus(spec=SPEC, state="running"))

    def epochs(self, records: list[EpochRecord]) -> None:
        for told in range(1, len(records) + 1):
            self.folder.write_records(SPEC.id, records[:told])

    def track(self, state: State = "completed", records: list[EpochRecord] = RECORDS) -> None:
        """A whole trial, and MLflow after it."""
        self.begin()
        self.epochs(records)
        self.folder.write_status(TrialStatus(spec=SPEC, state=state, message="why"))
        self.mirror.bring_up_to_date(closing=False)

    def next_driver(self, *, closing: bool = True) -> None:
        self.mirror = TrackerSync(self.study)
        self.mirror.bring_up_to_date(closing=closing)

    @property
    def run(self) -> Run:
        (run,) = (run for run in all_runs(self.client, self.experiment) if run.data.tags["kd.kind"] != "summary")
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
    here.track()
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
    assert run.data.tags.get("mlflow.source.git.commit", "") == git_commit()
    assert "completed why" in run.data.tags["mlflow.note.content"]
    assert "0.5000 after epoch 3, at best 0.6000 after epoch 2" in run.data.tags["mlflow.note.content"]
    assert here.folder.run_id("hetero-t000", "mlflow") == run.info.run_id


def test_a_run_has_the_log_of_its_trial(here: Tracked) -> None:
    here.folder.trial(SPEC.id).mkdir(parents=True)
    here.folder.log(SPEC.id).write_text("--- attempt 1\nwords\n")
    here.track()
    assert here.artifact("log.txt") == "--- attempt 1\nwords\n"


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
    told = json.loads(here.artifact("lambda_by_epoch.json"), parse_constant=pytest.fail)
    assert (told["teacher_layers"], told["student_layers"]) == (["conv1", "conv2", "fc"], ["conv1", "fc"])
    assert [epoch["epoch"] for epoch in told["epochs"]] == [1, 2, 3]
    assert told["epochs"][1] == {"epoch": 2, "weights": [list(row) for row in TILTED], "scales": [list(row) for row in TILTED]}
    assert told["held_epochs"] == [2, 3]
    assert told["held_mean"] == [pytest.approx(row) for row in TILTED]
    assert TrialConfig.model_validate(yaml.safe_load(here.artifact("config.yaml"))) == digits_trial()
    (data,) = here.run.inputs.dataset_inputs
    assert data.dataset.name == here.prepared.batches.images.name
    assert here.prepared.batches.images.digest.startswith(data.dataset.digest)


def test_epochs_are_one_call_for_all_that_is_new(here: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: Any = (), **rest: Any) -> Any:
        if metrics:
            calls.append(len(metrics))
        return log_batch(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    monkeypatch.setattr(MlflowClient, "log_metric", lambda *args, **rest: pytest.fail("a metric by itself"))
    here.track()
    assert calls == [3 * (len(RECORDS[0].metrics) + T * S)]


def test_trial_without_pairs_has_no_matrix(here: Tracked) -> None:
    here.track(records=[record(1, 0.4, ())])
    assert not [name for name in here.run.data.metrics if name.startswith(MATRIX_SECTION)]
    assert [file.path for file in here.client.list_artifacts(here.run.info.run_id)] == ["config.yaml", "layers.json"]


@pytest.mark.parametrize(("state", "expected"), [("completed", "FINISHED"), ("stopped", "FINISHED"), ("failed", "FAILED")])
def test_state_of_the_run_is_that_of_the_trial(here: Tracked, state: State, expected: str) -> None:
    here.track(state)
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == (expected, state)
    before = here.run
    here.next_driver()
    assert here.run.info.end_time == before.info.end_time  # there was nothing to do


def test_a_trial_is_followed_epoch_by_epoch_and_by_the_next_driver_too(here: Tracked) -> None:
    here.begin()
    here.epochs(RECORDS[:1])
    here.mirror.bring_up_to_date(closing=False)
    assert (here.run.info.status, here.history("val/accuracy")) == ("RUNNING", [(1, 0.4)])
    here.epochs(RECORDS[:2])
    here.mirror.bring_up_to_date(closing=False)
    assert here.history("val/accuracy") == [(1, 0.4), (2, 0.6)]
    here.mirror = TrackerSync(here.study)  # the driver dies here
    here.track()
    assert here.history("val/accuracy") == [(1, 0.4), (2, 0.6), (3, 0.5)]
    assert here.picture_steps() == [0, 1, 2, 3]  # 0 is the start, where MLflow's slider stands first
    assert len(here.run.inputs.dataset_inputs) == 1


def test_trial_that_was_left_running_is_interrupted_and_runs_again_when_it_goes_on(here: Tracked) -> None:
    here.begin()
    here.epochs(RECORDS[:1])
    here.mirror.bring_up_to_date(closing=False)
    here.epochs(RECORDS[:2])
    here.next_driver()  # the first one has died, and this one ends before the trial has gone on
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("KILLED", "interrupted")
    assert [step for step, _ in here.history("val/accuracy")] == [1, 2]

    here.next_driver(closing=False)
    assert here.run.info.status == "KILLED"  # it has not been started again
    here.begin()
    here.mirror.bring_up_to_date(closing=False)
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("RUNNING", "running")
    here.track()
    here.next_driver()
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("FINISHED", "completed")
    assert [step for step, _ in here.history("val/accuracy")] == [1, 2, 3]


def test_a_trial_that_is_run_again_has_a_run_of_its_new_life_only(here: Tracked) -> None:
    here.track("failed", [record(1, 0.9)])
    here.folder.set_aside(SPEC.id)
    here.next_driver(closing=False)
    here.track()
    assert (here.run.info.status, here.history("val/accuracy")) == ("FINISHED", [(1, 0.4), (2, 0.6), (3, 0.5)])
    (aside,) = (here.folder.root / "set_aside").iterdir()
    assert (aside.name, json.loads((aside / "status.json").read_text())["state"]) == ("hetero-t000.1", "failed")


def test_a_call_that_is_carried_out_after_it_was_given_up_leaves_no_second_run(here: Tracked) -> None:
    here.track()
    kept = here.run.info.run_id
    tags = {"kd.trial": SPEC.id, "kd.identity": here.folder.identity(SPEC.id), "kd.kind": "search"}
    here.client.create_run(here.experiment, run_name=SPEC.id, tags=tags)
    here.next_driver()
    assert here.run.info.run_id == kept


def test_an_epoch_that_arrives_twice_stands_once(here: Tracked) -> None:
    """A server that hung has taken the epoch, and its answer came too late."""
    here.track()
    log, (at, *_) = RunLog(here.client, here.experiment, here.run.info.run_id, Classification.goal), here.folder.times(SPEC.id)
    log._epochs.clear()
    log.describe(here.folder.about(SPEC.id), SPEC, "")
    log.log_epochs(RECORDS[:1], [at])
    assert here.history("val/accuracy") == [(1, 0.4), (2, 0.6), (3, 0.5)]
    assert here.picture_steps() == [0, 1, 2, 3]


CALLS = ["create_run", "log_batch", "log_inputs", "log_text", "log_artifacts", "set_terminated"]


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


def test_what_fails_is_told_and_written_once_when_it_works_again(
    here: Tracked, breaking: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    broken_call = request.node.callspec.params["breaking"]
    happens_once = broken_call in (("log_inputs", 1), ("set_terminated", 1))  # a second run is made, of the summary
    with nullcontext() if happens_once else pytest.raises(OSError, match="the tracking server is gone"):
        here.track()
    breaking.undo()
    here.mirror.bring_up_to_date(closing=True)
    here.next_driver()
    assert (here.run.info.status, here.run.data.tags["kd.state"]) == ("FINISHED", "completed")
    assert set(here.run.data.params) == {"method", "seed", *SPEC.settings}
    assert len(here.run.inputs.dataset_inputs) == 1
    assert here.history("val/accuracy") == [(1, 0.4), (2, 0.6), (3, 0.5)]
    assert here.history("weights_matrix/01 conv1 to 01 conv1") == [(1, pytest.approx(1 / 6)), (2, 0.5), (3, 0.5)]
    assert here.picture_steps() == [0, 1, 2, 3]
    artifacts = {file.path for file in here.client.list_artifacts(here.run.info.run_id)}
    assert artifacts == {"config.yaml", "images", "lambda.html", "lambda_by_epoch.json", "layers.json"}
    assert here.folder.run_id(SPEC.id, "mlflow") == here.run.info.run_id


def test_what_mlflow_refuses_of_one_trial_keeps_no_other_from_it(here: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TrialSpec(id="hetero-t001", kind="search", method="hetero", seed=3, settings={"kd.weight": 1.0})
    here.folder.write_status(TrialStatus(spec=other, state="failed"))
    log_inputs = MlflowClient.log_inputs
    monkeypatch.setattr(MlflowClient, "log_inputs", lambda *args, **rest: log_inputs("wrong", *args, **rest))
    here.track()
    assert list(here.mirror.refused) == [SPEC.id]
    found = {run.info.run_name: run.info.status for run in all_runs(here.client, here.experiment)}
    assert found["hetero-t001"] == "FAILED"


def test_a_trial_whose_settings_make_no_configuration_has_a_run(here: Tracked) -> None:
    """Such a trial failed before it had anything to tell."""
    here.folder.write_status(TrialStatus(spec=SPEC, state="failed", message="start below floor"))
    here.next_driver()
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
    drawn = {file.path for file in here.client.list_artifacts(summary.info.run_id, "outer_settings")}
    assert drawn == {"outer_settings/hetero.png", "outer_settings/kd.png"}


def test_another_study_of_the_name_has_an_experiment_of_its_own(here: Tracked) -> None:
    """Of another folder on the same server, or of one that was removed."""
    here.track()
    (here.folder.root / "identity").unlink()
    anew = open_experiment(here.study)
    assert anew != here.experiment and open_experiment(here.study) == anew
    assert here.client.get_experiment(anew).name == f"small-{here.folder.identity()[:8]}"
    assert not list(all_runs(here.client, anew))


def test_file_that_is_no_database_is_a_study_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StudyError, match=r"^MLflow does not work at .*mlflow\.db: .*not a database.*tracking\.uri$"):
        TrackerSync(digits_study(tmp_path)).start()


def test_link_opens_the_runs_best_first(tmp_path: Path) -> None:
    tail = "/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=kd-best"
    assert experiment_link(digits_study(tmp_path), "7") == f"http://127.0.0.1:5000{tail}"
    served = digits_study(tmp_path, tracking={"uri": "https://mlflow.example.org/"})
    assert experiment_link(served, "7") == f"https://mlflow.example.org{tail}"


def test_names_are_those_of_the_layers_that_the_trial_has(prepared: Prepared) -> None:
    config = digits_trial(student=digits_trial().student.replace(layers="auto"))
    assert layers_of(about_trial(config, prepared)).names == (("conv1", "conv2", "fc"), ("conv1", "fc"))


def test_layers_that_mlflow_cannot_spell_are_told_apart() -> None:
    cells = PairLayers(["a[0]", "a(0)"], ["b"]).cells([[0.25], [0.75]])
    assert cells == {"weights_matrix/01 a_0_ to 01 b": 0.25, "weights_matrix/02 a_0_ to 01 b": 0.75}
    assert PairLayers(["a"], ["b"]).cells([]) == {}


def test_the_start_that_is_shown_is_that_of_the_trial() -> None:
    assert start_of(LearnedWeights(), 2, 1) == ((0.5,), (0.5,))
    assert start_of(LearnedWeights(start=((1.0, 0.0), (0.0, 3.0))), 2, 2) == ((0.25, 0.0), (0.0, 0.75))
    assert start_of(Uniform(), 2, 2) == ()


def test_largest_of_the_pictures_is_the_same_at_every_epoch() -> None:
    assert PairLayers("ab", "cd").largest == 1.0
    assert PairLayers("abcd", "abcd").largest == 0.5
    assert max(max(row) for row in UNIFORM) < PairLayers("abc", "de").largest


def test_a_long_trial_reaches_mlflow_in_parts_with_a_matrix_each(here: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 epochs in 2 parts: the second and the last one; of what stands when the trial is stopped, the last one."""
    monkeypatch.setattr(tracking, "_MATRICES", 2)
    here.begin()
    seen = []
    for told in range(1, 4):
        here.folder.write_records(SPEC.id, RECORDS[:told])
        here.mirror.bring_up_to_date(closing=False)
        seen.append([step for step, _ in here.history("val/accuracy")] if told else [])
    assert seen == [[1], [1, 2], [1, 2]]
    here.folder.write_status(TrialStatus(spec=SPEC, state="stopped"))
    here.mirror.bring_up_to_date(closing=False)
    assert here.history("val/accuracy") == [(1, 0.4), (2, 0.6), (3, 0.5)]
    assert here.picture_steps() == [0, 1, 2, 3]  # the first one was all that there was when the run began
    assert [step for step, _ in here.history("weights_matrix/01 conv1 to 01 conv1")] == [1, 2, 3]
