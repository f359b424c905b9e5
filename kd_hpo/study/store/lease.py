"""One try at a trial, of several: the latest owns the trial's folder, and what an earlier one still writes is refused."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kd_hpo.errors import KdHpoError
from kd_hpo.files import only_one_process, write_atomically
from kd_hpo.study.environment import machine


class Superseded(KdHpoError):
    """The error of a trial that was started again elsewhere, or ended without this attempt, which has no more to write."""


@dataclass(frozen=True)
class Lease:
    """The right to write into a trial's folder, until someone takes it over.

    A process that Ray has given up lives on, where its node was cut off or its driver killed, and writes what it has trained;
    a checkpoint or a status of its own would undo what the next attempt has done since. So a file is replaced only under a
    lock, by the attempt whose name is in `owner`.
    """

    folder: Path
    name: str

    @classmethod
    def begin(cls, folder: Path) -> "Lease":
        """Takes a trial's folder over from whoever had it."""
        attempt = cls(folder, f"{worker_name()}:{uuid.uuid4().hex}")
        with only_one_process(folder / _LOCK):
            write_atomically(folder / _OWNER, attempt.name)
        return attempt

    def write(self, path: Path, content: bytes | str) -> None:
        """Writes as `write_atomically`. Raises Superseded where the folder has been taken over; the old file then stands."""
        write_atomically(path, content, replacing=self.mine())

    @property
    def worker(self) -> str:
        """The process of the attempt, as host:pid."""
        return self.name.rpartition(":")[0]

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Holds the folder while it is changed. Raises Superseded where it has been taken over."""
        with only_one_process(self.folder / _LOCK):
            owner = self.folder / _OWNER
            if not owner.is_file() or owner.read_text() != self.name:
                raise Superseded(f"{self.folder.name} was taken over by another process; this one writes nothing more")
            yield


_LOCK, _OWNER = ".attempt.lock", ".attempt"


def worker_name() -> str:
    """The name of this process, on whatever machine: host:pid."""
    return f"{machine()}:{os.getpid()}"
