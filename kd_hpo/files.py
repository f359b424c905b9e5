"""Files and folders that are either whole or not there."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes beside the file, flushes to disk, then takes its place: a reader or a crash sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_one_process(lock: Path) -> Iterator[None]:
    """Waits until no other process holds `lock`; the system lets go of it when a process dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:  # whatever file a link leads to, it stays as it is
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def folder_published_atomically(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill; it becomes `folder` when all went well, and goes when not.

    Where another process was faster, its folder stands and this one's work is dropped: both hold the same.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
