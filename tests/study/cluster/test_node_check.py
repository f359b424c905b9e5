"""What a machine must have to run trials, as it finds out itself."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.cluster.node_check import answer, question
from tests.conftest import digits_study
from tests.storage import BUCKET, running_storage


def said_of(study: StudyConfig) -> str:
    with question(study, study.runs) as asked:
        said = answer(asked, "node")
        assert asked.answered("node") or said.startswith("does not share")
    assert not list(study.runs.glob(".probe*"))
    return said


def test_a_machine_with_everything_lacks_nothing(tmp_path: Path) -> None:
    assert said_of(digits_study(tmp_path)) == ""


def test_another_folder_of_the_name_is_no_shared_one(tmp_path: Path) -> None:
    study = digits_study(tmp_path / "runs")
    words = re.escape(f"does not share the folder runs {study.runs} ") + r"\(.*\); put it where every node sees it: --set runs="
    with question(study, study.runs) as asked:
        elsewhere = replace(asked, folder=tmp_path / "elsewhere")
        assert re.match(words, answer(elsewhere, "node"))
        elsewhere.folder.mkdir()
        (elsewhere.folder / "token").write_text("of another study")
        assert re.match(words, answer(elsewhere, "node"))
        assert not asked.answered("node")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with question(digits_study(tmp_path), tmp_path) as asked:
        (asked.folder / "node").mkdir()  # nothing can take its place
        assert "(Is a directory)" in answer(asked, "node")


def test_another_version_is_told(tmp_path: Path) -> None:
    with question(digits_study(tmp_path), tmp_path) as asked:
        assert re.match(r"has kd_hpo .*, and the driver 0\.0\.1; install", answer(replace(asked, version="0.0.1"), "node"))


def test_what_lies_in_storage_is_looked_for(tmp_path: Path) -> None:
    with running_storage() as storage:
        storage.put("pets/cat/0.jpg", b"x")
        here, gone = ({"kind": "image_folder", "path": f"s3://{BUCKET}/{key}"} for key in ("pets", "dogs"))
        assert said_of(digits_study(tmp_path, data=here)) == ""
        assert said_of(digits_study(tmp_path, data=gone)) == (
            f"cannot read what trials read: s3://{BUCKET}/dogs is not there: the storage at {storage.endpoint} has nothing at "
            f"dogs in the bucket {BUCKET}"
        )


@pytest.mark.parametrize(("changes", "words"), [
    ({"data": {"kind": "image_folder", "path": "/no/images"}}, "does not see /no/images, which trials read; "),
    ({"data": {"kind": "callable", "callable": "no_such_module:images"}}, "has no module 'no_such_module'; "),
])  # fmt: skip
def test_what_trials_read_is_looked_for(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    assert said_of(digits_study(tmp_path, **changes)).startswith(words)
