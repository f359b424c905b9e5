"""Files and folders of a cache are made by one process, whole, and again where they cannot be read."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kd_hpo.errors import DataError
from kd_hpo.files import cached, digest, is_held, only_one_process

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
