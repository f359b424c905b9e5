"""The count of how often test was opened: in the file where it may be written, else beside other such counts."""

import json
import os
import stat
from pathlib import Path

import pytest

from kd_hpo.errors import ExportError
from kd_hpo.study.store.export_file import VERSION, load_export
from kd_hpo.study.store.openings import count_opening, openings


@pytest.fixture
def file(exported: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "shared" / "lambda.json"
    copy.parent.mkdir()
    copy.write_bytes(exported.read_bytes())
    return copy


def test_the_file_counts_and_holds_all_that_it_held(file: Path, tmp_path: Path) -> None:
    before, records = json.loads(file.read_text()), tmp_path / "records"
    file.chmod(0o640)
    assert (openings(file, records).count, openings(file, records).record) == (0, file)
    assert [count_opening(file, records).count for _ in range(3)] == [1, 2, 3]
    after = json.loads(file.read_text())
    assert after.pop("test_opened") == 3 and before.pop("test_opened") == 0
    assert after == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert not records.exists()


def test_a_link_is_still_one(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(file)
    assert count_opening(link, tmp_path / "records").count == 1
    assert link.is_symlink() and load_export(file).test_opened == 1


def test_a_file_that_may_not_be_written_is_left_alone_and_counted_apart(file: Path, tmp_path: Path) -> None:
    records, content = tmp_path / "records", file.read_bytes()
    file.chmod(0o444)
    found = [count_opening(file, records) for _ in range(2)]
    assert [each.count for each in found] == [1, 2]
    assert found[1].record.parent == records and openings(file, records) == found[1]
    assert file.read_bytes() == content
    (tmp_path / "copy.json").write_bytes(content)  # the same matrices, wherever they lie
    assert openings(tmp_path / "copy.json", records).count == 2
    assert count_opening(tmp_path / "copy.json", records).count == 3
    found[1].record.write_text("{")
    with pytest.raises(ExportError, match="is broken; how often test was opened is not known"):
        count_opening(file, records)


def test_a_file_system_that_refuses_is_a_file_that_may_not_be_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file of another owner in a folder of another owner, which root, who may run this, can write all the same."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != file.parent)
    assert count_opening(file, tmp_path / "records").record.parent == tmp_path / "records"
    assert load_export(file).test_opened == 0


def test_a_file_of_an_earlier_version_counts_from_its_first_opening(file: Path, tmp_path: Path) -> None:
    content = json.loads(file.read_text())
    content["schema_version"] = 1
    del content["test_opened"]
    file.write_text(json.dumps(content))
    assert [count_opening(file, tmp_path / "records").count for _ in range(2)] == [1, 2]
    assert load_export(file).schema_version == VERSION
