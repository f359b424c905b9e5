"""Files and folders that are whole or not there; full disks are in tests/service/test_faults_disk.py."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kd_hpo.files import (
    folder_published_atomically,
    naming,
    only_one_process,
    remove_unpublished,
    reserve,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["höher\n", b"\x00\xff"])
def test_a_file_is_written_with_its_folder_and_nothing_beside_it(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "a" / "b" / "c.json"
    for _ in range(2):
        write_atomically(file, content)
    assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(file.parent) == ["c.json"]


def test_who_may_not_replace_the_file_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    write_atomically(file, "old")

    @contextmanager
    def superseded() -> Iterator[None]:
        assert len(names(tmp_path)) == 2  # all is written when it is asked
        raise PermissionError("another has taken over")
        yield

    with pytest.raises(PermissionError):
        write_atomically(file, "new", replacing=superseded())
    assert file.read_text() == "old" and names(tmp_path) == ["status.json"]


def test_an_error_without_a_file_gets_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, naming(tmp_path / "x"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    with pytest.raises(FileNotFoundError) as other, naming(tmp_path / "x"):
        (tmp_path / "y").read_text()
    assert other.value.filename == str(tmp_path / "y")


def test_room_is_taken_for_all_of_a_file_of_holes(tmp_path: Path) -> None:
    file = tmp_path / "map.npy"
    with file.open("wb") as opened:
        opened.truncate(1 << 20)
    before = file.stat().st_blocks
    reserve(file)
    assert file.stat().st_size == 1 << 20
    assert before * 512 < 1 << 20 <= file.stat().st_blocks * 512


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock, inside = tmp_path / "deep" / ".lock", threading.Event()
    code = f"""
from pathlib import Path
from kd_hpo.files import only_one_process
print("waits", flush=True)
with only_one_process(Path({str(lock)!r})):
    print("is inside", flush=True)
"""
    with only_one_process(lock):
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert other.stdout is not None
        assert other.stdout.readline() == b"waits\n"
        reader = threading.Thread(target=lambda: other.stdout.readline() and inside.set())  # type: ignore[union-attr]
        reader.start()
        assert not inside.wait(0.5)
    reader.join()
    assert inside.is_set() and other.wait() == 0
    other.stdout.close()


def test_a_folder_is_published_when_it_is_full(tmp_path: Path) -> None:
    with folder_published_atomically(tmp_path / "set") as folder:
        (folder / "images").write_text("all")
        assert not (tmp_path / "set").exists()
    assert (tmp_path / "set" / "images").read_text() == "all" and names(tmp_path) == ["set"]


def test_a_folder_that_failed_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_published_atomically(tmp_path / "set") as folder:
        (folder / "images").write_text("some")
        _ = 1 / 0
    assert names(tmp_path) == []


def test_the_faster_process_wins(tmp_path: Path) -> None:
    with folder_published_atomically(tmp_path / "set") as slow:
        (slow / "images").write_text("slow")
        with folder_published_atomically(tmp_path / "set") as fast:
            (fast / "images").write_text("fast")
    assert (tmp_path / "set" / "images").read_text() == "fast" and names(tmp_path) == ["set"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".set.123").mkdir()
    (tmp_path / ".other.123").mkdir()
    (tmp_path / ".set.lock").touch()
    remove_unpublished(tmp_path / "set")
    assert names(tmp_path) == [".other.123", ".set.lock"]
