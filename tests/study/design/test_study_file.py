"""Exported matrices in a study file: read with it, fixed from then on, refused where they do not fit."""

from pathlib import Path

import pytest
import yaml

from kd_hpo.config.study import Method
from kd_hpo.config.weightings import FixedMatrix
from kd_hpo.errors import ConfigError, ExportError
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from tests.conftest import digits_study
from tests.study.helpers import UNIFORM, record, result_of

CORNER = ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best matrix is a corner, the second one uniform."""
    study = digits_study(tmp_path_factory.mktemp("runs"))
    folder = StudyFolder.of(study)
    for trial, result in (("a", result_of([record(1, 0.7, CORNER)])), ("b", result_of([record(1, 0.6)]))):
        folder.write_status(TrialStatus(spec=TrialSpec(id=trial, kind="search", method="hetero", seed=0), state="completed"))
        folder.write_records(trial, list(result.records))
        (folder.trial(trial) / "result.json").write_text(result.model_dump_json())
    export_study(study, folder, folder.export, top=2)
    return folder.export


def written(tmp_path: Path, **changes: object) -> Path:
    study = digits_study(tmp_path / "runs").model_dump(mode="json", exclude={"runs"}, exclude_none=True)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study | {"search": {"trials": 0}} | changes))
    return path


@pytest.mark.parametrize(("rank", "matrix"), [(1, CORNER), (2, UNIFORM)])
def test_an_exported_matrix_becomes_a_fixed_one(tmp_path: Path, exported: Path, rank: int, matrix: object) -> None:
    weighting = {"kind": "exported", "path": str(exported), "rank": rank}
    method = {"name": "applied", "base": "hetero", "set": {"weighting": weighting, "pairs.strength": 2.0}}
    study = load_study(written(tmp_path, weighting=weighting, compare={"methods": ["kd", method]}))
    assert study.weighting == FixedMatrix(matrix=matrix)  # type: ignore[arg-type]
    kd, applied = study.compare.methods
    assert kd == "kd"
    assert isinstance(applied, Method)
    assert applied.set == {"weighting": FixedMatrix(matrix=matrix).model_dump(mode="json"), "pairs.strength": 2.0}  # type: ignore[arg-type]


def test_a_rank_that_is_not_there_is_told(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no matrix of rank 3; it has 1, 2$"):
        load_study(written(tmp_path, weighting={"kind": "exported", "path": str(exported), "rank": 3}))


def test_a_matrix_of_other_layers_is_told(tmp_path: Path, exported: Path) -> None:
    path = written(tmp_path, weighting={"kind": "exported", "path": str(exported)})
    with pytest.raises(ConfigError, match=r"of the student layers conv1, fc, and the study has conv1, conv2; set student.layers"):
        load_study(path, ["student.layers=[conv1, conv2]"])


def test_a_file_that_is_no_export_is_told(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(ExportError, match="is not an export of kd_hpo"):
        load_study(written(tmp_path, weighting={"kind": "exported", "path": str(other)}))


def test_a_method_s_export_without_a_path_is_told(tmp_path: Path) -> None:
    method = {"name": "applied", "base": "hetero", "set": {"weighting": {"kind": "exported"}}}
    with pytest.raises(ConfigError, match=r"method 'applied' is wrong at path; give \{kind: exported, path: FILE, rank: 1\}"):
        load_study(written(tmp_path, compare={"methods": [method]}))
