"""Files and folders are whole or not there, and a cache makes them in one process (full disks: test_faults_disk.py)."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from kd_hpo.errors import DataError
from kd_hpo.files import cache_over, cached, digest, is_held, naming, only_one_process, reserve, write_atomically


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


HOLD = """
import sys
from pathlib import Path
from kd_hpo.files import only_one_process
with only_one_process(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def text(place: Path) -> str | None:
    return place.read_text() if place.is_file() and place.read_text() != "broken" else None


def test_a_lock_goes_with_the_process_that_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert is_held(lock)
        with pytest.raises(TimeoutError), only_one_process(lock, wait=False):
            pass
        holder.kill()
        holder.wait()
        assert not is_held(lock)
        with only_one_process(lock, wait=False):
            assert is_held(lock)
    assert not is_held(lock)


def test_to_ask_for_a_lock_makes_none(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock")
    assert not list(tmp_path.iterdir())


def test_one_makes_it_while_the_others_wait(tmp_path: Path) -> None:
    made: list[Path] = []
    began, others_wait = threading.Event(), threading.Event()

    def make(new: Path) -> None:
        made.append(new)
        began.set()
        others_wait.wait()
        new.write_text("value")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cached, tmp_path / "x", text, make)
        began.wait()
        second = pool.submit(cached, tmp_path / "x", text, make)
        others_wait.set()
        assert (first.result(), second.result(), len(made)) == ("value", "value", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.lock", "x"]


def test_what_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("broken")
    assert cached(tmp_path / "x", text, lambda new: new.write_text("whole") and None) == "whole"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_breaks_off_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def broken_off(new: Path) -> None:
        new.mkdir()
        (new / "part").write_text("part")
        raise error

    with pytest.raises(error):
        cached(tmp_path / "x", text, broken_off)
    assert [path.name for path in tmp_path.iterdir()] == [".x.lock"]
    (tmp_path / ".x.building").mkdir()  # of a process that was killed
    assert cached(tmp_path / "x", text, lambda new: new.write_text("whole") and None) == "whole"


def test_what_cannot_be_read_back_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x of the cache cannot be read back"):
        cached(tmp_path / "x", text, lambda new: new.write_text("broken") and None)


def test_a_digest_tells_the_parts_apart() -> None:
    parts: list[tuple[object, ...]] = [(b"ab",), (b"a", b"b"), ("ab",), (["a", "b"],), ("a", "b"), ({"a": "b"},), (b"",), ()]
    assert len({digest(*each) for each in parts}) == len(parts)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_cache_that_may_not_be_written_is_read_and_what_it_lacks_is_made_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cache of another owner, which root, who may run this, can write all the same."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    assert cache_over(shared, own) == shared  # which is not there yet, and is made
    write_atomically(shared / "made", "theirs")
    assert cache_over(shared, own) == shared and not own.exists()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shared)
    assert cache_over(shared, own) == own
    for name, content in (("made", "theirs"), ("lacking", "ours")):
        found = cached(own / name, read=text, make=lambda new: new.write_text("ours") and None)
        assert found == content
    assert [path.name for path in shared.glob("[!.]*")] == ["made"]
    assert cache_over(shared, own) == own  # once more, over what stands there
