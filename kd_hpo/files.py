"""Files and folders that are either whole or not there."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

Write = Callable[[Path, bytes | str], None]
"""Puts content in the place of a file, whole or not at all: `write_atomically`, or one that may refuse."""


def write_atomically(path: Path, content: bytes | str, *, replacing: AbstractContextManager[object] | None = None) -> None:
    """Writes beside the file, flushes to disk, then takes its place: a reader or a crash sees the old file or the new one.

    replacing  held while the file is replaced; what it raises leaves the old file
    Raises OSError with the file's name, where the disk is full too.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            with replacing or nullcontext():
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name into an OSError that has none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def reserve(file: Path) -> None:
    """Takes the room on the disk that a new file of holes says it has: a memory map without room kills whoever writes to it.

    Raises OSError with the file's name where there is no room.
    """
    with naming(file), file.open("r+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, max(file.stat().st_size, 1))


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


def remove_unpublished(folder: Path) -> None:
    """What `folder_published_atomically` has left of the folder where its process was killed. For who alone may fill it now."""
    for temporary in folder.parent.glob(f".{folder.name}.*"):
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
