"""What a person does in MLflow's page, what the environment says and what clocks do: the study arrives whole all the same."""

import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.matrices.apply import apply
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.tracking import runs as tracking
from kd_hpo.study.tracking.best_student import ALIAS
from kd_hpo.study.tracking.mlflow_tracker import MlflowTracker
from kd_hpo.study.tracking.runs import RunLog, all_runs, open_experiment
from kd_hpo.study.tracking.sync import TrackerSync, mirrored
from kd_hpo.study.tracking.uri import given_uri, tracking_uri
from kd_hpo.trial.parts import Prepared
from tests.conftest import digits_study
from tests.study.helpers import record
from tests.study.shown import add_comparison, add_search, add_trial, finish, shown_study

TRIALS = {"hetero-s0", "kd-s0", "uniform-s0"}
SPEC = TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=0, settings={"kd.weight": 1.0})


@pytest.fixture
def study(tracked: StudyConfig) -> StudyConfig:
    return shown_study(tracked.runs)


def client_of(study: StudyConfig) -> MlflowClient:
    return MlflowClient(tracking_uri(study))


def shown(study: StudyConfig) -> dict[str, str]:
    """The status of every run of the study's experiment, by name; each name once."""
    names = [(run.info.run_name, run.info.status) for run in all_runs(client_of(study), open_experiment(study))]
    assert len(dict(names)) == len(names)
    return dict(names)


WHOLE = dict.fromkeys((*TRIALS, "summary"), "FINISHED")


def arrive(study: StudyConfig) -> str:
    """The next driver comes and goes; the experiment's id."""
    TrackerSync(study).bring_up_to_date(closing=True)
    return open_experiment(study)


INTERRUPTED = WHOLE | {"summary": "KILLED"}


def test_experiment_may_be_deleted_again_and_again(study: StudyConfig, prepared: Prepared) -> None:
    """MLflow keeps the names of deleted experiments."""
    add_comparison(study, prepared)
    experiments = list[str]()
    for _ in range(3):
        experiment, told = finish(study, prepared)
        assert (told, shown(study)) == ("", WHOLE)
        assert str(client_of(study).get_model_version_by_alias("small", ALIAS).version) == str(len(experiments) + 1)
        client_of(study).delete_experiment(experiment)
        experiments.append(experiment)
    found = client_of(study).search_experiments(view_type=ViewType.DELETED_ONLY)
    assert len({each.name for each in found}) == len(set(experiments)) == 3


def test_experiment_that_is_renamed_is_the_study_still(study: StudyConfig, prepared: Prepared) -> None:
    add_comparison(study, prepared)
    experiment = arrive(study)
    client_of(study).rename_experiment(experiment, "my favourite")
    assert arrive(study) == experiment and shown(study) == INTERRUPTED


def test_deleted_experiment_that_is_restored_is_not_mixed_with_the_new_one(study: StudyConfig, prepared: Prepared) -> None:
    add_search(study, prepared)
    client, old = client_of(study), arrive(study)
    client.delete_experiment(old)
    add_comparison(study, prepared)
    new = arrive(study)
    client.restore_experiment(old)
    assert open_experiment(study) == new != old  # which has more of it
    assert arrive(study) == new
    assert set(shown(study)) == {*WHOLE, "hetero-t000", "hetero-t001", "hetero-t002"}


def test_experiment_of_a_call_that_was_given_up_is_not_taken_for_the_study(study: StudyConfig, prepared: Prepared) -> None:
    add_comparison(study, prepared)
    experiment = arrive(study)
    tags = {"kd.study": study.name, "kd.identity": StudyFolder.of(study).identity()}
    client_of(study).create_experiment("carried out late", (study.runs / "late").as_uri(), tags)
    assert open_experiment(study) == experiment


def test_experiment_that_is_deleted_while_the_study_runs_comes_again_whole(study: StudyConfig, prepared: Prepared) -> None:
    add_search(study, prepared)
    sync, told = TrackerSync(study), StringIO()
    sync.bring_up_to_date(closing=False)
    add_trial(study, prepared, SPEC.replace(id="hetero-t003"), 0.5, state="running")
    sync.bring_up_to_date(closing=False)
    old = open_experiment(study)
    client_of(study).delete_experiment(old)
    folder, epochs = StudyFolder.of(study), study.training.epochs
    folder.write_records("hetero-t003", [record(epoch, 0.1 * epoch) for epoch in range(1, epochs + 1)])
    sync.bring_up_to_date(closing=False)
    assert sync.refused == {} and "hetero-t003" in shown(study)
    sync.bring_up_to_date(closing=True)
    assert open_experiment(study) != old and sync.refused == {}, told
    states = {"hetero-t000": "FINISHED", "hetero-t001": "FINISHED", "hetero-t002": "FINISHED", "hetero-t003": "KILLED"}
    assert shown(study) == states | {"summary": "KILLED"}


def test_run_that_is_deleted_while_its_trial_runs_comes_again(study: StudyConfig, prepared: Prepared) -> None:
    sync, client, experiment = TrackerSync(study), client_of(study), open_experiment(study)
    sync.bring_up_to_date(closing=False)
    add_trial(study, prepared, SPEC, 0.5, state="running")
    sync.bring_up_to_date(closing=False)
    for run in all_runs(client, experiment):
        client.delete_run(run.info.run_id)
    add_trial(study, prepared, SPEC, 0.5)
    sync.bring_up_to_date(closing=True)
    assert sync.refused == {} and shown(study) == {"hetero-t000": "FINISHED", "summary": "KILLED"}
    (run,) = (run for run in all_runs(client, experiment) if run.info.run_name == SPEC.id)
    points = client.get_metric_history(run.info.run_id, "val/accuracy")
    assert [point.step for point in points] == list(range(1, study.training.epochs + 1))


def test_runs_and_models_that_are_deleted_for_good_come_again(study: StudyConfig, prepared: Prepared) -> None:
    """As `mlflow gc` does, with their artifacts."""
    add_comparison(study, prepared)
    experiment, _ = finish(study, prepared)
    client = client_of(study)
    for run in all_runs(client, experiment):
        client.delete_run(run.info.run_id)
    (model,) = client.search_logged_models([experiment])
    client.delete_logged_model(model.model_id)
    uri = tracking_uri(study)
    gone = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri]
    subprocess.run(gone, check=True, capture_output=True)  # in this process it would set MLFLOW_TRACKING_URI
    with pytest.raises(MlflowException):
        client.get_run(StudyFolder.of(study).run_id("kd-s0", "mlflow") or "")
    assert finish(study, prepared) == (experiment, "") and shown(study) == WHOLE
    source = client.get_model_version_by_alias("small", ALIAS).source
    assert [model.artifact_location for model in client.search_logged_models([experiment])] == [source]
    assert Path(source.removeprefix("file://")).is_dir()


def test_trial_that_is_restored_beside_its_new_run_stands_once(study: StudyConfig, prepared: Prepared) -> None:
    add_comparison(study, prepared)
    arrive(study)
    folder, client = StudyFolder.of(study), client_of(study)
    old = folder.run_id("kd-s0", "mlflow")
    assert old is not None
    client.delete_run(old)
    arrive(study)
    new = folder.run_id("kd-s0", "mlflow")
    client.restore_run(old)
    arrive(study)
    assert old != new == folder.run_id("kd-s0", "mlflow") and shown(study) == INTERRUPTED


def test_folder_that_has_lost_a_run_id_finds_it_again(study: StudyConfig, prepared: Prepared) -> None:
    """No run goes because a small file is gone."""
    add_comparison(study, prepared)
    arrive(study)
    folder = StudyFolder.of(study)
    before = {trial: folder.run_id(trial, "mlflow") for trial in TRIALS}
    for trial in TRIALS:
        (folder.trial(trial) / "tracked.json").unlink()
    arrive(study)
    assert {trial: folder.run_id(trial, "mlflow") for trial in TRIALS} == before and shown(study) == INTERRUPTED


@pytest.mark.parametrize("deleted", ["model", "version", "alias"])
def test_registered_student_that_is_deleted_comes_again(study: StudyConfig, prepared: Prepared, deleted: str) -> None:
    add_comparison(study, prepared)
    finish(study, prepared)
    client = client_of(study)
    if deleted == "model":
        client.delete_registered_model("small")
    elif deleted == "version":
        client.delete_model_version("small", "1")
    else:
        client.delete_registered_model_alias("small", ALIAS)
    assert finish(study, prepared)[1] == ""
    (version,) = client.search_model_versions("name = 'small'")
    assert client.get_model_version_by_alias("small", ALIAS).version == version.version


# Clocks


def test_run_ends_no_earlier_than_it_began(study: StudyConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is set back by a day while a trial runs, or the next driver's is behind."""
    sync = TrackerSync(study)
    sync.bring_up_to_date(closing=False)
    add_trial(study, prepared, SPEC, 0.5, state="running")
    sync.bring_up_to_date(closing=False)
    real = tracking.time.time
    monkeypatch.setattr(tracking, "time", SimpleNamespace(time=lambda: real() - 86_400))
    add_trial(study, prepared, SPEC, 0.5)
    sync.bring_up_to_date(closing=True)
    for run in all_runs(client_of(study), open_experiment(study)):
        assert run.info.status != "RUNNING" and run.info.end_time >= run.info.start_time


# The environment


@pytest.fixture
def elsewhere(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(database, tmp_path / "elsewhere" / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def told_by(study: StudyConfig) -> str:
    StudyFolder.of(study).write_settings(study)
    said = StringIO()
    with mirrored(study, Console(file=said, width=400)) as sync:
        assert sync.caught_up()
    return said.getvalue()


def test_environment_is_followed_where_the_study_names_no_place(tmp_path: Path, elsewhere: str) -> None:
    study = digits_study(tmp_path)
    StudyFolder.of(study).write_status(TrialStatus(spec=SPEC, state="failed"))
    told = told_by(study)
    assert told.count("\n") == 1 and elsewhere in told and "MLFLOW_TRACKING_URI" in told and "tracking.uri" in told
    experiment = MlflowClient(elsewhere).get_experiment_by_name("small")
    assert [run.info.run_name for run in all_runs(MlflowClient(elsewhere), experiment.experiment_id)] != []
    assert not (tmp_path / "mlflow.db").exists()


def test_what_the_study_names_comes_before_the_environment(tracked: StudyConfig, elsewhere: str) -> None:
    own = f"sqlite:///{tracked.runs / 'mlflow.db'}"
    study = tracked.replace(tracking={"uri": own})
    assert told_by(study) == "" and tracking_uri(study) == own
    assert MlflowClient(elsewhere).get_experiment_by_name("small") is None


def test_environment_without_a_place_says_nothing(tracked: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert given_uri(tracked) is None and told_by(tracked) == ""


def test_other_variables_of_mlflow_lead_no_run_astray(
    tracked: StudyConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of another project in the same shell."""
    for name, value in {"EXPERIMENT_NAME": "other", "EXPERIMENT_ID": "77", "RUN_ID": "0" * 32}.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    study = shown_study(tracked.runs)
    add_comparison(study, prepared)
    assert arrive(study) != "77" and shown(study) == INTERRUPTED


def test_secret_of_the_environment_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:s3cr3t@127.0.0.1:9/?token=s3cr3t")
    study = digits_study(tmp_path, tracking={"patience_s": 0.1})
    StudyFolder.of(study).write_settings(study)
    said = StringIO()
    with mirrored(study, Console(file=said, width=400)):
        pass
    assert "MLflow is away" in said.getvalue() and "s3cr3t" not in said.getvalue()
    assert MlflowTracker(study).link.startswith("http://127.0.0.1:9/#/experiments")


# Files


def test_every_lambda_json_in_mlflow_can_be_applied(study: StudyConfig, prepared: Prepared, cache: Path, tmp_path: Path) -> None:
    add_comparison(study, prepared)
    folder = StudyFolder.of(study)
    TrackerSync(study).bring_up_to_date(closing=False)
    export_study(study, folder, folder.export, top=1)
    experiment, _ = finish(study, prepared)
    client, held = client_of(study), list[object]()
    runs = {run.info.run_name: run.info.run_id for run in all_runs(client, experiment)}
    for name in ("hetero-s0", "summary"):
        path = Path(client.download_artifacts(runs[name], "lambda.json", str(tmp_path)))
        (tmp_path / name).mkdir()
        (tmp_path / name / "cache").symlink_to(cache)
        applied = apply(path, form="held", overrides=["training.epochs=1"], runs=tmp_path / name)
        held.append(applied.result.held_mean)
        assert load_export(path).matrices[0].mlflow_run_id == runs["hetero-s0"]
    assert held[0] == held[1]
    for name in ("kd-s0", "uniform-s0"):  # nothing was learned
        assert "lambda.json" not in {file.path for file in client.list_artifacts(runs[name])}


def test_a_run_is_written_by_the_log_that_the_tracker_gives(study: StudyConfig) -> None:
    tracker = MlflowTracker(study)
    tracker.open()
    assert isinstance(tracker.run_of(SPEC, "a"), RunLog)


def test_a_folder_in_the_place_of_the_database_is_told_at_once(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(StudyError, match=r"mlflow\.db is a folder.*move"):
        tracking_uri(study)
