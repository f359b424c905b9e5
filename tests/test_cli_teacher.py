"""`kd-hpo teacher`; code of one's own on the command line: found from the current folder, never run because a file says so."""

import json
from pathlib import Path

import pytest
import yaml

from kd_hpo.errors import ExportError
from kd_hpo.study.matrices.apply import refuse_code
from tests.conftest import digits_study, digits_trial
from tests.test_cli import Command

__all__ = ["kd_hpo"]


@pytest.fixture
def kd_hpo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return Command(capsys, monkeypatch, tmp_path)


@pytest.fixture
def study_file(kd_hpo: Command) -> Path:
    path = kd_hpo.folder / "study.yaml"
    path.write_text(yaml.safe_dump(json.loads(digits_study(kd_hpo.folder / "runs").model_dump_json())))
    return path


def test_teacher_is_trained_once_and_told(kd_hpo: Command, study_file: Path) -> None:
    first = kd_hpo("teacher", study_file)
    assert first.code == 0
    training, accuracy, weights, following = first.out.splitlines()
    assert training == "training the teacher: epoch 1 of 4"
    assert accuracy.startswith("plain_conv: accuracy on val 0.") and accuracy.endswith("(120 images)")
    file = Path(weights.removeprefix("its weights: "))
    assert file.is_file()
    assert following.endswith(f"next: kd-hpo run {study_file}")
    written = file.stat().st_mtime_ns
    assert kd_hpo("teacher", study_file).out == first.out.removeprefix(f"{training}\n")
    assert file.stat().st_mtime_ns == written


def test_layer_that_does_not_exist_is_told_before_the_training(kd_hpo: Command, study_file: Path) -> None:
    told = kd_hpo("teacher", study_file, "--set", "student.layers=[conv9]")
    assert told.code == 1
    assert told.out == ""
    assert told.error.startswith("student: PlainConv has no layer 'conv9'; ")


def test_teacher_that_is_taken_as_it_comes(kd_hpo: Command, study_file: Path) -> None:
    told = kd_hpo("teacher", study_file, "--set", "teacher.training=null")
    assert "its weights: as the network comes" in told.out


def test_network_of_ones_own_is_found_in_the_current_folder(kd_hpo: Command, study_file: Path) -> None:
    (kd_hpo.folder / "network_of_this_test.py").write_text(
        "from torch import nn\n\n\ndef small(classes, hidden):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))\n"
    )
    network = "teacher.network={name: 'network_of_this_test:small', arguments: {hidden: 8}}"
    told = kd_hpo("teacher", study_file, "--set", network, "--set", "teacher.layers=auto")
    assert "network_of_this_test:small: accuracy on val 0." in told.out
    wrong = kd_hpo("teacher", study_file, "--set", "teacher.network.name=network_of_this_test:smal")
    assert "network_of_this_test has no callable 'smal'; it has small" in wrong.error


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("student.network.name", {"student": {"network": {"name": "os:system"}, "layers": "auto"}}),
        ("teacher.network.name", {"teacher": {"network": {"name": "os:system"}, "layers": "auto"}}),
        ("data.callable", {"data": {"kind": "callable", "callable": "os:system"}}),
        ("pairs.loss.callable", {"pairs": {"loss": {"kind": "callable", "callable": "os:system"}}}),
    ],
)
def test_a_file_runs_no_code_that_the_user_has_not_named(path: str, changes: dict[str, object]) -> None:
    data = digits_trial(**changes).model_dump(mode="json")
    with pytest.raises(ExportError, match=rf"names code to run, {path} = 'os:system'.* --set {path}=os:system"):
        refuse_code(data, [])
    with pytest.raises(ExportError, match="names code"):
        refuse_code(data, ["training.epochs=3", f"{path}x=os:system"])
    refuse_code(data, [f"{path}=os:system"])
    refuse_code(digits_trial().model_dump(mode="json"), [])


def test_assistants_of_a_file_are_looked_at_too() -> None:
    loss = {"kind": "callable", "callable": "os:system"}
    by_name = {"network": {"name": "os:system"}, "training": {"epochs": 1}}
    by_loss = {"network": {"name": "plain_conv"}, "training": {"epochs": 1}, "pairs": {"loss": loss}}
    for assistant, path in ((by_name, r"assistants\.0\.network\.name"), (by_loss, r"assistants\.0\.pairs\.loss\.callable")):
        data = digits_trial(assistants=[assistant]).model_dump(mode="json")
        with pytest.raises(ExportError, match=path):
            refuse_code(data, [])
