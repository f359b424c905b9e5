"""What MLflow holds of a study as a whole, on its way and at its end, against a real SQLite database."""

import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.design.trials import searches
from kd_hpo.study.results.arms import Answer
from kd_hpo.study.results.comparison import compared
from kd_hpo.study.results.final_scores import shared_scores
from kd_hpo.study.results.repeats import Repeated
from kd_hpo.study.results.standing import learned_weights
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.tracking import mlflow_tracker
from kd_hpo.study.tracking.best_student import ALIAS, Classifier, model_folder, save_student
from kd_hpo.study.tracking.overview import describe_experiment, write_overview
from kd_hpo.study.tracking.runs import all_runs, open_experiment
from kd_hpo.study.tracking.sync import TrackerSync, mirrored
from kd_hpo.study.tracking.tracker import Ending
from kd_hpo.study.tracking.uri import tracking_uri
from kd_hpo.trial.parts import Prepared, build
from tests.study.helpers import S, T
from tests.study.shown import add_comparison, add_search, finish, show, shown_study


@pytest.fixture
def study(tracked: StudyConfig) -> StudyConfig:
    return shown_study(tracked.runs)


def client_of(study: StudyConfig) -> MlflowClient:
    return MlflowClient(tracking_uri(study))


def run_named(study: StudyConfig, experiment: str, name: str) -> Run:
    (run,) = (run for run in all_runs(client_of(study), experiment) if run.info.run_name == name)
    return run


def test_finished_study_leads_to_its_best_trial_and_its_verdict(study: StudyConfig, prepared: Prepared) -> None:
    add_search(study, prepared)
    add_comparison(study, prepared)
    experiment, told = finish(study, prepared)
    assert told == ""
    tags = client_of(study).get_experiment(experiment).tags
    assert [tag for tag in tags if tag.startswith("mlflow.sharedViewState.")] == ["mlflow.sharedViewState.kd-best"]
    assert tags["mlflow.note.content"].startswith("**Best: [hetero-s0](")
    summary = run_named(study, experiment, "summary")
    assert summary.info.status == "FINISHED"
    note = summary.data.tags["mlflow.note.content"]
    assert note.startswith("**Learned lambda (hetero): accuracy on test 0.7300**, 1 seed: +0.0400 to the best control, kd (p -).")
    assert "`conv1`&nbsp;&nbsp; | 0.500" in note and 'load_model("models:/small@best")' in note
    assert run_named(study, experiment, "kd-s0").data.metrics["test/accuracy"] == pytest.approx(0.69)
    assert "test/accuracy" not in run_named(study, experiment, "hetero-t000").data.metrics


def test_best_student_is_a_model_that_runs_without_pickles(
    study: StudyConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_comparison(study, prepared)
    for _ in range(2):  # a study that is run again registers the same student once
        experiment, told = finish(study, prepared)
        assert told == ""
    client = client_of(study)
    (version,) = client.search_model_versions("name = 'small'")
    found = client.get_model_version_by_alias("small", ALIAS)
    assert (found.version, found.tags["kd.trial"]) == (version.version, "hetero-s0")
    assert "val/accuracy 0.7500, test/accuracy 0.7300" in found.description
    (model,) = client.search_logged_models([experiment])
    assert (model.source_run_id, model.params["method"]) == (run_named(study, experiment, "hetero-s0").info.run_id, "hetero")

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(study))
    about = mlflow.models.get_model_info("models:/small@best")
    assert [spec.shape for spec in about.signature.inputs] == [(-1, 1, 8, 8)]
    assert [spec.shape for spec in about.signature.outputs] == [(-1, 10)]
    assert about.saved_input_example_info is not None
    loaded = mlflow.pytorch.load_model("models:/small@best")
    student = build(study.student.network, prepared.batches, prepared.task, seed=study.seed)
    with torch.no_grad():
        for size in (1, 3):
            chosen = prepared.splits.val[:size]
            images = torch.from_numpy(prepared.batches.images.images[chosen]).float() / 255
            expected = student.eval()(prepared.batches.inputs(chosen))
            torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-4)
    for where in ("models:/small@best", str(model_folder(StudyFolder.of(study)))):
        served = mlflow.pyfunc.load_model(where)
        assert served.predict(np.zeros((5, 1, 8, 8), dtype=np.float32)).shape == (5, 10)

    weights = StudyFolder.of(study).trial("hetero-s0") / "last.safetensors"  # a better student is a new version
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    finish(study, prepared)
    assert str(client.get_model_version_by_alias("small", ALIAS).version) == "2"


def test_the_repeats_and_what_the_search_has_come_to_stand_in_the_summary(study: StudyConfig, prepared: Prepared) -> None:
    add_comparison(study, prepared)
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    comparison = compared(study, folder, shared_scores(prepared), searches(study, (T, S)))
    learned, answer = learned_weights(study, folder), Answer("uniform", 2, -0.01, 0.002, "few", "uniform")
    assert learned is not None
    repeated = Repeated((comparison, comparison))
    repeated.write(folder)
    with mirrored(study, Console(quiet=True)) as mirror:
        assert mirror.caught_up(ending=Ending(comparison, replace(learned, answer=answer), repeated))
    summary = run_named(study, open_experiment(study), "summary")
    note = summary.data.tags["mlflow.note.content"]
    assert "**Over the repeats:**" in note and "uniform is the answer" in note and "0.0100 ± 0.0020 behind" in note
    assert {"repeats.csv", "repeats.json"} <= {file.path for file in client_of(study).list_artifacts(summary.info.run_id)}


def test_study_that_ends_while_its_start_is_still_written_has_its_summary(
    study: StudyConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_comparison(study, prepared)
    begun, ended = Event(), Event()

    def written_slowly(*told: Any) -> None:
        begun.set()
        assert ended.wait(60)
        write_overview(*told)

    monkeypatch.setattr(mlflow_tracker, "write_overview", written_slowly)
    mirror, folder = TrackerSync(study), StudyFolder.of(study)
    folder.write_settings(study)
    mirror.start()
    assert begun.wait(60)
    Timer(0.2, ended.set).start()  # once the end of the study waits
    assert mirror.caught_up(ending=Ending(compared(study, folder, shared_scores(prepared), searches(study, (T, S))), None))
    mirror.leave()
    assert run_named(study, open_experiment(study), "summary").info.status == "FINISHED"


def test_model_of_another_origin_is_left_alone(study: StudyConfig, prepared: Prepared) -> None:
    client_of(study).create_registered_model("small")
    add_comparison(study, prepared)
    experiment, told = finish(study, prepared)
    assert told.startswith("the best student is not registered: MLflow's registry has a model 'small' already")
    assert run_named(study, experiment, "summary").info.status == "FINISHED"


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if x.sum().item() > 0 else -x.flatten(1)


def test_network_that_cannot_be_traced_is_a_study_error(tmp_path: Path) -> None:
    student = Classifier(Untraceable(), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)).eval()
    with pytest.raises(StudyError, match=r"^the best student is not in MLflow: torch\.export cannot trace it \("):
        save_student(student, (1, 2, 2), tmp_path / "model", {})


def test_study_on_its_way_is_shown_as_it_goes_and_interrupted_when_it_stops(study: StudyConfig, prepared: Prepared) -> None:
    folder, mirror = StudyFolder.of(study), show(study)
    experiment = open_experiment(study)

    def description() -> str:
        return client_of(study).get_experiment(experiment).tags["mlflow.note.content"]

    assert description().startswith("**No trial has been completed yet**")
    add_search(study, prepared)
    spec = TrialSpec(id="hetero-t003", kind="search", method="hetero", seed=0, settings={"kd.weight": 1.0})
    folder.write_status(TrialStatus(spec=spec, state="running"))
    mirror.bring_up_to_date(closing=False)
    assert description().startswith("**Best: [hetero-t001](") and "1 running" in description()
    summary = run_named(study, experiment, "summary")
    assert summary.info.status == "RUNNING"
    assert not client_of(study).list_artifacts(summary.info.run_id, "outer_settings")  # how trials will end is not known yet
    mirror.bring_up_to_date(closing=True)
    summary = run_named(study, experiment, "summary")
    assert summary.info.status == "KILLED"
    (drawn,) = client_of(study).list_artifacts(summary.info.run_id, "outer_settings")
    assert drawn.path == "outer_settings/hetero.png" and drawn.file_size > 10_000
    assert summary.data.tags["mlflow.note.content"].startswith("**The study has not come to its end.**")


def test_mirror_that_is_left_looks_at_the_folder_no_more(
    study: StudyConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may be gone by then, and runs whose trials are gone would go too."""
    monkeypatch.setattr("kd_hpo.study.tracking.sync._LOOKS_EVERY_S", 60.0)
    add_search(study, prepared)
    mirror = TrackerSync(study)
    mirror.start()
    assert mirror.caught_up(closing=True)
    experiment = open_experiment(study)
    shutil.rmtree(StudyFolder.of(study).root)
    mirror.leave()
    mirror._thread.join(timeout=20)
    assert not mirror._thread.is_alive()
    assert run_named(study, experiment, "hetero-t000")


def test_overview_that_mlflow_refuses_is_told_and_keeps_no_trial_back(
    study: StudyConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ValueError("no tags here")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refused)
    add_comparison(study, prepared)
    experiment, told = finish(study, prepared)
    assert told == "MLflow refuses the study's overview: no tags here\n"
    assert run_named(study, experiment, "hetero-s0").info.status == "FINISHED"


def test_description_that_a_person_wrote_stays(study: StudyConfig) -> None:
    client, experiment = client_of(study), open_experiment(study)
    for text in ("ours", "ours again"):
        describe_experiment(client, experiment, text)
        assert client.get_experiment(experiment).tags["mlflow.note.content"] == text
    client.set_experiment_tag(experiment, "mlflow.note.content", "mine")
    describe_experiment(client, experiment, "ours once more")
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == "mine"
