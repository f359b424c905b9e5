"""Files and folders that are either whole or not there, and what only one process does at a time."""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from kd_hpo.errors import DataError

T = TypeVar("T")

COPIES = "s3-"
"""What the folders of a cache are called that hold several copies of a place in storage."""

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
                with suppress(OSError):  # of a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)  # what nobody holds was left by a process that was killed
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
def only_one_process(lock: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds `lock`, once no other process does; the system lets go of it when a process dies.

    wait  False raises TimeoutError where another process holds it
    """
    from filelock import FileLock  # those who need no cache do without

    lock.parent.mkdir(parents=True, exist_ok=True)
    # Whatever file a link leads to stays as it is. A lock that is a file's existence would outlive its process.
    with FileLock(lock.resolve(), timeout=-1 if wait else 0, fallback_to_soft=False):
        yield


def is_held(lock: Path) -> bool:
    """Whether a process holds `lock`. To ask changes nothing, and needs no right to write."""
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def cached(place: Path, read: Callable[[Path], T | None], make: Callable[[Path], None], *, lock: Path | None = None) -> T:
    """Gives what a file or folder of a cache holds, made first where it is not there: by one process, while others wait.

    place  named by a digest of all that it depends on
    read   gives what is in `place`; None where that is missing, broken or no longer true, and it is made anew
    make   puts the file or folder at the path that it is given, which becomes `place` once it is whole
    lock   a hidden file beside it by default
    Raises DataError where what was made cannot be read back.
    """
    found = read(place)
    if found is not None:
        return found
    with only_one_process(lock or place.with_name(f".{place.name}.lock")):
        found = read(place)
        if found is None:
            _make(place, make)
            found = read(place)
    if found is None:
        raise DataError(f"{place} of the cache cannot be read back. Choose a local folder for the cache.")
    return found


def cache_over(shared: Path, own: Path) -> Path:
    """Gives a cache in which all is found that `shared` has: that itself, where it may be written, else one in `own` over it.

    What another user's cache lacks is made in `own`, which has a link to each thing in the other.
    """
    if not shared.is_dir() or os.access(shared, os.W_OK):
        return shared
    _link_all(shared, own)
    return own


def _link_all(shared: Path, own: Path) -> None:
    own.mkdir(parents=True, exist_ok=True)
    for there in shared.glob("[!.]*"):
        if there.is_dir() and there.name.startswith(COPIES):
            _link_all(there, own / there.name)  # a folder of what was fetched, which more is fetched to
        elif not os.path.lexists(own / there.name):
            (own / there.name).symlink_to(there)


def _make(place: Path, make: Callable[[Path], None]) -> None:
    """For who holds the lock of `place`: what a killed process has left goes, and so does what cannot be read."""
    for left in place.parent.glob(f".{place.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    work = place.with_name(f".{place.name}.building")
    work.mkdir(parents=True)
    try:
        make(work / "new")
        if os.path.lexists(place):
            place.rename(work / "old")
        (work / "new").rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def digest(*told: object) -> str:
    """24 hex digits that stand for all that is told: bytes, and what JSON can say; for names in a cache."""
    found = hashlib.sha256()
    for part in told:
        content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        found.update(b"%d " % len(content) + content)
    return found.hexdigest()[:24]
