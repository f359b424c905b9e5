"""Which places a stranger's export may have opened: those that the user names, and those below the working folder."""

import json
from pathlib import Path

import pytest

from kd_hpo.config.read import replace_path
from kd_hpo.errors import DataError, ExportError
from kd_hpo.study.matrices.apply import apply
from kd_hpo.study.matrices.trust import own_places, refuse_places
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"data": {"kind": "image_folder", "path": "/etc"}}, "data.path"),
        ({"data": {"kind": "image_folder", "path": "s3://theirs/images"}}, "data.path"),
        ({"data": {"kind": "torchvision", "name": "CIFAR10", "root": "../out"}}, "data.root"),
        ({"student.weights": "/root/.ssh/id"}, "student.weights"),
    ],
)
def test_a_place_elsewhere_is_refused_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], path: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    study = digits_study(tmp_path / "runs")
    for dotted, value in changes.items():
        study = replace_path(study, dotted, value)
    config = study.trial()
    with pytest.raises(ExportError, match=rf"outside the working folder, {path} = .*--set .*--trust-paths"):
        refuse_places(config, ["training.epochs=1"], ())
    refuse_places(config, [f"{path}=anything"], ())
    refuse_places(config, [f"{path.partition('.')[0]}={{kind: digits}}"], ())
    assert own_places(tmp_path / "runs", study.name) == set()
    StudyFolder.of(study).write_settings(study)
    refuse_places(config, [], own_places(tmp_path / "runs", study.name))  # which the user has written


def test_a_place_below_the_working_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    study = digits_study(tmp_path / "runs", data={"kind": "image_folder", "path": str(tmp_path / "images")})
    refuse_places(study.trial(), [], ())
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(ExportError, match="outside the working folder"):
        refuse_places(study.replace(data={"kind": "image_folder", "path": str(tmp_path / "out")}).trial(), [], ())


def test_apply_opens_no_place_of_a_file_unless_it_is_trusted(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file is trusted, it is its images that are missing."""
    monkeypatch.chdir(tmp_path)
    content = json.loads(exported.read_text())
    for entry in content["matrices"]:
        entry["config"]["data"] = {"kind": "image_folder", "path": "/nowhere/at/all"}
    (tmp_path / "theirs.json").write_text(json.dumps(content))
    with pytest.raises(ExportError, match="outside the working folder"):
        apply("theirs.json", runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DataError, match="/nowhere/at/all"):
        apply("theirs.json", runs=tmp_path / "runs", trust_paths=True)
