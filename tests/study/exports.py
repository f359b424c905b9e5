"""An export of a study made by hand, for any test that wants one: import the fixture into a conftest."""

from pathlib import Path

import pytest

from kd_hpo.config.weightings import NoPairs
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.store.folder import State, StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.trial.result import TrialResult
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import record, result_of


def add_trial(folder: StudyFolder, trial: str, result: TrialResult, state: State = "completed") -> None:
    spec = TrialSpec(id=trial, kind="search", method="learned", seed=3, settings={"kd.weight": 1.5})
    folder.write_status(TrialStatus(spec=spec, state=state))
    folder.write_records(trial, list(result.records))
    (folder.trial(trial) / "result.json").write_text(result.model_dump_json())


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study of four trials, of which two have learned weights to the end."""
    study = digits_study(tmp_path_factory.mktemp("runs"))
    folder = StudyFolder.of(study)
    corner = ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    add_trial(folder, "trial-000", result_of([record(1, 0.8), record(2, 0.6)]))
    add_trial(folder, "trial-001", result_of([record(1, 0.5), record(2, 0.7, corner)]))
    add_trial(folder, "trial-002", result_of([record(1, 0.9)]), state="stopped")
    add_trial(folder, "ce-s0", result_of([record(1, 0.99, ())], digits_trial(weighting=NoPairs())))
    folder.write_run_id("trial-001", "mlflow", "run")
    folder.write_test_scores("trial-001", TestScores(last=0.4, best=0.5))
    path = folder.root / "out" / "lambda.json"
    export_study(study, folder, path, top=5)
    return path
