"""The log of a trial: what its process printed, attempt after attempt, in one file of the trial's folder that stays small."""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kd_hpo.errors import StudyError, without_secrets
from kd_hpo.files import naming

LOG = "log.txt"
MOST, _FIRST, _LAST = 2**20, 2**18, 2**19
"""Bytes of a log; of one that has grown beyond that, how many are kept of its beginning and of its end."""
_LOOKS_EVERY_S = 0.5
_ATTEMPT = re.compile(rb"^--- attempt (\d+) .*\n", re.MULTILINE)
_ACTS_ON_A_TERMINAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class TrialLog:
    """A log that is open to be written: whatever writes to its descriptor writes at its end, also after it was shortened."""

    file: Path
    descriptor: int

    def begin_attempt(self, trial: str, worker: str) -> int:
        """Writes the line that begins an attempt, and gives its number, from 1 on."""
        numbers = [int(found[1]) for found in _ATTEMPT.finditer(self._read(0))]
        number, now = 1 + max(numbers, default=0), datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        self._write(f"--- attempt {number} of {trial}, in process {worker}, at {now}\n".encode())
        return number

    def since(self, place: int) -> bytes:
        """What stands behind a place; nothing where the log is shorter than that."""
        return self._read(place)

    def shorten(self) -> bool:
        """Leaves the middle out of a log that has grown too long, but for the lines that begin attempts. Whether it has done so.

        What another thread writes in that moment may be lost.
        """
        if self.size <= MOST:
            return False
        whole = self._read(0)
        first, last = whole[:_FIRST].rpartition(b"\n"), whole[-_LAST:]
        middle = whole[len(first[0]) + 1 : -_LAST]
        begun = b"".join(found[0] for found in _ATTEMPT.finditer(middle))
        note = f"\n--- {len(middle)} bytes are left out here: a log holds {MOST} at most\n".encode()
        os.ftruncate(self.descriptor, 0)
        self._write(first[0] + note + begun + last)
        return True

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def _read(self, place: int) -> bytes:
        return os.pread(self.descriptor, max(self.size - place, 0), place)

    def _write(self, content: bytes) -> None:
        with naming(self.file):
            while content:
                content = content[os.write(self.descriptor, content) :]


@contextmanager
def opened(file: Path) -> Iterator[TrialLog]:
    """Opens a trial's log to be written at its end, made if need be. Raises StudyError where it is a symbolic link."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        yield TrialLog(file, descriptor)
    finally:
        os.close(descriptor)


def read_log(file: Path) -> str:
    """Reads a log, without credentials, and without characters that act on a terminal. Raises StudyError for a symbolic link."""
    with os.fdopen(_open(file, os.O_RDONLY), "rb") as log:
        return shown(log.read())


def shown(content: bytes) -> str:
    """Gives what a process has printed as text for a person: a line that was written over stands as several."""
    text = content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return without_secrets(_ACTS_ON_A_TERMINAL.sub("", text))


def last_lines(text: str, lines: int) -> str:
    return "".join(text.splitlines(keepends=True)[-lines:])


def follow(file: Path, lines: int, ended: Callable[[], bool], *, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """Gives the last lines of a log, then what is added to it, whole lines until `ended`, and then what was added last.

    Of a log that is shortened meanwhile it goes on at the new end. Raises StudyError for a symbolic link.
    """
    with os.fdopen(_open(file, os.O_RDONLY), "rb") as log:
        place, over = 0, False
        while not over:
            over = ended()  # before the last look: what came until then is seen
            place = min(place, os.fstat(log.fileno()).st_size)
            log.seek(place)
            content = log.read()
            if not over:
                content = content[: content.rfind(b"\n") + 1]
            if content:
                yield last_lines(shown(content), lines) if place == 0 else shown(content)
            place += len(content)
            if not over:
                sleep(_LOOKS_EVERY_S)


def keeping_short(log: TrialLog, mine: Callable[[], AbstractContextManager[object]]) -> bool:
    """Shortens a log under the right to write into its folder; whether it has done so."""
    if log.size <= MOST:
        return False
    with mine():
        return log.shorten()


def _open(file: Path, flags: int) -> int:
    try:
        return os.open(file, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StudyError(
            f"{file} is a symbolic link, and no file of a study is opened through one, since what it leads to would be read or "
            "written; remove the link"
        ) from error
