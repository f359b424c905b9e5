"""Links in a study's folder are refused by name, and what killed processes have left unfinished goes."""

import fcntl
from pathlib import Path

import pytest

from kd_hpo.errors import StudyError
from kd_hpo.files import write_atomically
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.store.tidy import refuse_links, remove_unfinished
from tests.conftest import digits_study

HEX = "0123456789abcdef" * 2


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    study = digits_study(tmp_path / "runs")
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    folder.trial("kd-t000").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "name",
    ["optuna.log", "study.yaml", ".lock", "identity", "lambda.json", "trials/kd-t000/status.json", "trials/kd-t001", "ray"],
)
def test_no_file_of_a_study_is_opened_through_a_link(folder: StudyFolder, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine\nhalf a line")
    (folder.root / name).unlink(missing_ok=True)
    (folder.root / name).symlink_to(victim)
    with (
        pytest.raises(StudyError, match=rf"{folder.root / name} is a symbolic link to {victim}, .*remove the link"),
        folder.only_driver(),
    ):
        pass
    with pytest.raises(StudyError, match="is a symbolic link"):
        folder.read_settings()
    assert victim.read_text() == "mine\nhalf a line"


def test_the_folder_itself_and_optunas_lock_may_be_links(folder: StudyFolder, tmp_path: Path) -> None:
    (folder.root / "optuna.log.lock").symlink_to(folder.optuna)
    other = tmp_path / "small"
    other.symlink_to(folder.root)
    assert StudyFolder(other).read_settings().name == "small"
    refuse_links(tmp_path / "nowhere")


def test_what_a_killed_process_left_goes_and_what_one_writes_stays(folder: StudyFolder) -> None:
    left = [folder.root / f".lambda.json.{HEX}", folder.trial("kd-t000") / f".status.json.{HEX}"]
    kept = [folder.trial("kd-t000") / ".attempt", folder.root / ".hidden", folder.root / f"x.{HEX}"]
    for file in (*left, *kept):
        file.write_text("half")
    (folder.root / ".probe-1").mkdir()
    written = folder.trial("kd-t000") / f".records.json.{HEX}"
    with written.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # by a process that lives
        with folder.only_driver():
            assert not any(file.exists() for file in (*left, folder.root / ".probe-1"))
            assert all(file.exists() for file in (*kept, written))
    remove_unfinished(folder.root)
    assert not written.exists()


def test_a_file_is_held_while_it_is_written(tmp_path: Path) -> None:
    class Looking:
        def __enter__(self) -> None:
            remove_unfinished(tmp_path)

        def __exit__(self, *_: object) -> None: ...

    write_atomically(tmp_path / "status.json", "whole", replacing=Looking())
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
