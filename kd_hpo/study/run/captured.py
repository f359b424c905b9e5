"""Sends what the process of a trial prints into the trial's log: Python, libraries and child processes alike."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from kd_hpo.study.store.lease import Lease, Superseded
from kd_hpo.study.store.trial_log import TrialLog, keeping_short, opened

_LOOKS_EVERY_S = 0.5
_STANDARD = (1, 2)


@contextmanager
def captured(file: Path, attempt: Lease) -> Iterator[None]:
    """Appends all that the process writes to standard output and error to a log, below a line that tells the attempt.

    The file is what is written to first, so that the last words of a process that is killed are in it. A thread passes them on
    to where they went before, for Ray's own logs and `--verbose`, and keeps the file short.
    Raises StudyError where the file is a symbolic link.
    """
    with opened(file) as log, ExitStack() as undone:
        log.begin_attempt(file.parent.name, attempt.worker)
        begins, before = log.size, _kept_streams(undone)
        stream = undone.enter_context(os.fdopen(os.dup(log.descriptor), "w", buffering=1, errors="backslashreplace"))
        keeper = _Keeper(log, attempt, before, begins)
        undone.callback(keeper.end)
        undone.enter_context(_standard_into(log.descriptor, before))
        keeper.start()
        with redirect_stdout(stream), redirect_stderr(stream):
            yield


def _kept_streams(undone: ExitStack) -> dict[int, int]:
    """Copies of the standard descriptors that are open, by their number; they are closed in the end."""
    kept = dict[int, int]()
    for number in _STANDARD:
        with suppress(OSError):  # of a process that has none
            kept[number] = os.dup(number)
            undone.callback(os.close, kept[number])
    return kept


@contextmanager
def _standard_into(descriptor: int, before: dict[int, int]) -> Iterator[None]:
    _flush()
    for number in before:
        os.dup2(descriptor, number)
    try:
        yield
    finally:
        _flush()
        for number, kept in before.items():
            os.dup2(kept, number)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


class _Keeper:
    """Passes on what is added to a log, and shortens it where it grows too long, from time to time and at the end."""

    def __init__(self, log: TrialLog, attempt: Lease, before: dict[int, int], place: int) -> None:
        self._log, self._attempt, self._place = log, attempt, place
        self._to = before.get(2, before.get(1))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="kd-hpo-log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._look()

    def _keep(self) -> None:
        while not self._over.wait(_LOOKS_EVERY_S):
            self._look()

    def _look(self) -> None:
        with suppress(OSError, Superseded):  # a disk that is full ends the trial where it writes what it has learned
            content = self._log.since(self._place)
            self._place += len(content)
            while content and self._to is not None:
                content = content[os.write(self._to, content) :]
            if keeping_short(self._log, self._attempt.mine):
                self._place = self._log.size
