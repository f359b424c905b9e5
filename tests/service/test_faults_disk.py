"""A disk that fills up while a study runs or a file is written: what was there stays whole, and the study goes on later."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kd_hpo.data.cache import Labelling, new_images, open_or_build
from kd_hpo.errors import DataError
from kd_hpo.files import reserve, write_atomically
from tests.service.faults import HOLD, IN_EPOCH_2, FaultyStudy, faulty_study

pytestmark = [pytest.mark.service, pytest.mark.slow]

MEGABYTES = 64
SEARCH = {
    "trials": 2,
    "scheduler": {"kind": "none"},
    "space": {"kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0}},
}


class Disk:
    """A small file system of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(root)], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")

    def fill(self) -> None:
        with pytest.raises(OSError, match="No space left"), (self.root / "filler").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()

    def free(self) -> None:
        (self.root / "filler").unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.root)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.unmount()


def test_file_that_does_not_fit_leaves_the_old_one_and_nothing_else(disk: Disk) -> None:
    file = disk.root / "lambda.json"
    write_atomically(file, "old")
    disk.fill()
    with pytest.raises(OSError, match=f"No space left on device: '{file}'"):
        write_atomically(file, bytes(10**6))
    assert file.read_text() == "old"
    assert {path.name for path in disk.root.iterdir()} == {"filler", "lambda.json"}
    disk.free()
    write_atomically(file, "new")
    assert file.read_text() == "new"


def test_cache_that_does_not_fit_is_refused_before_it_kills_the_process(disk: Disk) -> None:
    images = MEGABYTES * 2**20 * 97 // 100 // 64  # then there is no room for their labels

    def build(folder: Path) -> Labelling:
        pixels = new_images(folder, (images, 1, 8, 8))
        with pytest.raises(DataError, match=r"decoded images take 0\.1 GB and the disk of the cache has 0\.0 GB left"):
            new_images(folder, (images, 1, 8, 8))  # the first, which nobody has written to, has its room
        pixels[:] = 7
        return Labelling(np.zeros(images, np.int64), ("a",), None)

    with pytest.raises(DataError, match=r"cannot be written: .*Choose a local folder"):
        open_or_build(disk.root, "set", "kind", "key", build)
    assert not [path for path in disk.root.iterdir() if not path.name.endswith(".lock")]
    holes = disk.root / "holes"
    with holes.open("wb") as file:
        file.truncate(2 * MEGABYTES * 2**20)
    with pytest.raises(OSError, match=f"No space left on device: '{holes}'"):
        reserve(holes)


@pytest.fixture
def faulty() -> Iterator[FaultyStudy]:
    with faulty_study(
        search=SEARCH, tracking={"patience_s": 2.0}, resources={"concurrent_trials": 1, "max_failures": 0}
    ) as faulty:
        yield faulty


def test_study_on_a_full_disk_stops_with_one_line_and_goes_on_when_there_is_room(faulty: FaultyStudy) -> None:
    disk = Disk(faulty.study.runs)
    try:
        held = faulty.put(HOLD, at=IN_EPOCH_2)
        with faulty.command(*faulty.run()) as run:
            run.until(lambda: faulty.taken(held))
            disk.fill()
            faulty.release(held)
            told = run.ended(1)
        assert "error: " in told.splitlines()[-1] and "No space left on device" in told.splitlines()[-1]
        assert told.endswith("free some space, and go on with the same command\n")
        disk.free()
        with faulty.command(*faulty.resume()) as resumed:
            resumed.ended()
        assert set(faulty.states().values()) <= {"completed", "failed"}  # that there was no room may be how a trial has ended
        with faulty.command(*faulty.resume("--retry-failed")) as resumed:
            resumed.ended()
        faulty.must_be_whole()
    finally:
        disk.unmount()
