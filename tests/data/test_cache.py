"""One builder at a time: the others wait and take what it built."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from kd_hpo.data.cache import Labelling, new_images, open_or_build


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    built: list[Path] = []
    first_builds, second_came = threading.Event(), threading.Event()

    def build(folder: Path) -> Labelling:
        built.append(folder)
        first_builds.set()
        second_came.wait()
        new_images(folder, (3, 1, 2, 2))[:] = 7
        return Labelling(np.arange(3), ("a", "b", "c"), 2)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(open_or_build, tmp_path, "set", "kind", "key", build)
        first_builds.wait()
        second = pool.submit(open_or_build, tmp_path, "set", "kind", "key", build)
        second_came.set()
        one, two = first.result(), second.result()
    assert len(built) == 1
    assert (one.images == 7).all()
    assert (one.digest, one.classes, one.test_start) == (two.digest, two.classes, two.test_start)


def test_the_next_builds_after_a_failure(tmp_path: Path) -> None:
    def fail(folder: Path) -> Labelling:
        raise RuntimeError("killed")

    def build(folder: Path) -> Labelling:
        new_images(folder, (1, 1, 2, 2))[:] = 7
        return Labelling(np.zeros(1, np.int64), ("a",), None)

    with pytest.raises(RuntimeError, match="killed"):
        open_or_build(tmp_path, "set", "kind", "key", fail)
    assert open_or_build(tmp_path, "set", "kind", "key", build).images.shape == (1, 1, 2, 2)
