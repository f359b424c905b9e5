"""Ray and MLflow at home before any test module imports them; the small studies that the tests spoil."""

from pathlib import Path

import pytest

from kd_hpo.study.environment import prepare_environment

prepare_environment()

from kd_hpo.study.matrices.export import export_study  # noqa: E402
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus  # noqa: E402
from tests.conftest import digits_study  # noqa: E402
from tests.study.databases import database, tracked  # noqa: E402
from tests.study.helpers import record, result_of  # noqa: E402

__all__ = ["database", "tracked"]


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return learned_study(tmp_path)


@pytest.fixture
def export(folder: StudyFolder) -> Path:
    return written_export(folder)


def learned_study(runs: Path) -> StudyFolder:
    """One with a single trial, which has learned its weights."""
    study = digits_study(runs)
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    result = result_of([record(1, 0.5), record(2, 0.75)])
    spec = TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=3, settings={"kd.weight": 1.5})
    folder.write_status(TrialStatus(spec=spec, state="completed"))
    folder.write_records(spec.id, list(result.records))
    (folder.trial(spec.id) / "result.json").write_text(result.model_dump_json())
    return folder


def written_export(folder: StudyFolder) -> Path:
    path = folder.root / "lambda.json"
    export_study(folder.read_settings(), folder, path, top=1)
    return path
