"""Starts the processes of trials where they belong: on this machine in the folder that the study was started in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_START = "KD_HPO_START"
"""Set in the processes of a Ray that was started here."""


@contextmanager
def starting_in(empty: Path) -> Iterator[None]:
    """Has processes of trials that `ray.init` inside starts find their modules in the order that the driver does.

    Ray puts the folder that it is started in before Python's own modules in them, so that an unrelated `profile.py` there
    would fail every trial. So it is started in an empty one, which stays, and `go_to_start` takes each trial from there.
    """
    here, before = Path.cwd(), os.environ.get(_START)
    os.environ[_START] = str(here)
    os.chdir(empty)
    try:
        yield
    finally:
        os.chdir(here)
        if before is None:
            del os.environ[_START]
        else:
            os.environ[_START] = before


def go_to_start() -> None:
    """Takes a process of a trial to the folder that the study was started in, before anything is read.

    On the nodes of a cluster, which have been given code, it stays.
    """
    if start := os.environ.get(_START):
        with suppress(OSError):
            os.chdir(start)
