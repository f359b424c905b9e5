"""A study whose images, teacher and student's start are in S3-compatible storage, on a real Ray."""

import os
import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from kd_hpo.cli import main
from kd_hpo.config.study import StudyConfig
from kd_hpo.nets.weights import save_weights
from kd_hpo.nets.zoo import build_network
from kd_hpo.study.run.driver import run_study
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study, digits_trial
from tests.storage import BUCKET, Storage, running_storage

pytestmark = [pytest.mark.service, pytest.mark.slow]

IMAGES = 240


@pytest.fixture
def runs() -> Iterator[Path]:
    """Short, since Ray keeps Unix sockets below it."""
    folder = Path(mkdtemp(prefix="kd", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Digits as JPEG files, a folder a class, and weights of both networks."""
    files = tmp_path_factory.mktemp("files")
    digits = load_digits()
    for index in range(IMAGES):
        name = files / "digits" / str(digits.target[index]) / f"{index:03d}.jpg"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[index] * 15).astype("uint8")).save(name, quality=95)
    trial = digits_trial()
    for whose, network in (("teacher", trial.teacher.network), ("student", trial.student.network)):
        built = build_network(network.name, network.arguments, (1, 8, 8), 10, seed=5, pretrained=False)
        save_weights(built.state_dict(), files / "weights" / f"{whose}.safetensors")
    with running_storage() as storage:
        storage.put_folder(files, "of")
        yield storage


def study_in(runs: Path, **changes: object) -> StudyConfig:
    trial, at = digits_trial(), f"s3://{BUCKET}/of"
    fields: dict[str, object] = {
        "data": {"kind": "image_folder", "path": f"{at}/digits"},
        "splits": {"outer": 40, "val": 40, "test": 40},
        "teacher": trial.teacher.replace(weights=f"{at}/weights/teacher.safetensors", accept_weak=True),
        "student": trial.student.replace(weights=f"{at}/weights/student.safetensors"),
        "training": {"epochs": 2, "batch_size": 32},
        "search": {"trials": 0},
        "compare": {"methods": ["kd", "hetero"], "seeds": 1},
        "resources": {"cpus_per_trial": 0.5, "concurrent_trials": 2},
    }
    return digits_study(runs, **(fields | changes))


def test_a_study_fetches_what_it_reads_once(runs: Path, storage: Storage) -> None:
    study, told = study_in(runs), StringIO()
    run_study(study, Console(file=told))
    folder = StudyFolder.of(study)
    assert {status.spec.id: status.state for status in folder.statuses()} == {"kd-s0": "completed", "hetero-s0": "completed"}
    got = storage.take_got()
    assert len(got) == len(set(got))  # by the trials' processes neither
    assert {key.split("/")[1] for key in got} == {"digits", "weights"} and len(got) == IMAGES + 2
    about = folder.about("kd-s0")
    assert about is not None and about.data_name == "digits"
    assert about.config.teacher.weights == f"s3://{BUCKET}/of/weights/teacher.safetensors"  # as the study has it, on any machine

    more = study.replace(compare={"methods": ["kd", "hetero"], "seeds": 2})
    run_study(more, Console(quiet=True))
    assert len(folder.statuses()) == 4 and storage.take_got() == []


@pytest.mark.parametrize("what", ["the key is missing", "nobody answers"])
def test_storage_without_the_images_is_told_in_one_line(
    what: str, runs: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = {"kind": "image_folder", "path": f"s3://{BUCKET}/of/letters"}
    study = study_in(runs, **({"data": missing} if what == "the key is missing" else {}))
    if what == "nobody answers":
        monkeypatch.setitem(os.environ, "AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    file = runs / "study.json"
    file.write_text(study.model_dump_json())
    monkeypatch.setattr("sys.argv", ["kd-hpo", "run", str(file)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert ("has nothing at of/letters in the bucket" if what == "the key is missing" else "does not answer for s3://") in last
    assert not StudyFolder.of(study).root.exists()
