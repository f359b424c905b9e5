"""Files and folders of S3-compatible storage, fetched once into the cache: whatever reads them finds a path on disk."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kd_hpo.errors import DataError
from kd_hpo.files import COPIES, cached, naming

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

Progress = Callable[[str], None]

_ANSWER_S = 10.0
"""How long a connection may stay silent; after three of them the storage is away."""
_ATTEMPTS, _THREADS, _CHUNK = 3, 8, 2**20
_AWS = re.compile(r"AWS Error ([A-Z_]+) during \w+ operation: (?:curlCode: \d+, )?([^;(]*)")
_AWAY = ("NETWORK_CONNECTION", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "THROTTLING", "REQUEST_TIMEOUT")


class Remote(NamedTuple):
    """A file, as the storage lists it."""

    name: str
    """Below its folder, with forward slashes."""
    bytes: int
    mtime_ns: int
    etag: str = ""


class Away(DataError):
    """The storage does not answer."""


def on_disk(
    place: Path | str,
    cache: Path,
    *,
    folder: bool,
    wanted: Callable[[str], bool] = lambda name: True,
    progress: Progress = lambda _: None,
) -> Path:
    """The path of a file or folder on disk: as it is, or, of `s3://BUCKET/KEY`, its copy in the cache, fetched if need be.

    folder  whether the key is that of a folder or of one file; of a folder, files whose names are `wanted` are fetched
    The storage is asked at every call what it has, and what has changed is fetched again, by one process while others wait.
    Where it does not answer, the copy that was fetched last serves, and `progress` is told.
    Raises DataError where there is no such key, and where the storage does not answer and there is no copy.
    """
    if isinstance(place, Path):
        return place
    home = cache / f"{COPIES}{_digest(_endpoint() or '', place)}"
    try:
        files = listing(place, folder=folder, wanted=wanted)
    except Away as error:
        if not (copies := list(home.glob("[!.]*/"))):
            raise
        progress(f"{error}; what was fetched before serves")
        return max(copies, key=lambda copy: copy.stat().st_mtime_ns) / _name(place)
    copy = cached(
        home / _digest(*map(str, files)),
        read=lambda copy: copy if _is_whole(copy / _name(place), files, folder=folder) else None,
        make=lambda new: _fetch(place, files, new, folder=folder, progress=progress),
        lock=cache / f".{home.name}.lock",
    )
    with suppress(PermissionError):  # of another user's cache
        os.utime(copy)
    return copy / _name(place)


def listing(place: str, *, folder: bool, wanted: Callable[[str], bool] = lambda name: True) -> list[Remote]:
    """Lists what the storage has at a place, by name; hidden files are left out. Raises DataError as on_disk does."""
    bucket, _, key = place.removeprefix("s3://").rstrip("/").partition("/")
    path = f"{bucket}/{key}".rstrip("/")
    with _told_about(place):
        from pyarrow.fs import FileSelector, FileType

        storage = _storage()
        found = storage.get_file_info(path)
        if found.type == FileType.NotFound:
            there = storage.get_file_info(bucket).type != FileType.NotFound
            what = f"nothing at {key} in the bucket {bucket}" if there else f"no bucket {bucket}"
            raise DataError(f"{place} is not there: the storage{_at()} has {what}")
        if (found.type == FileType.Directory) != folder:
            due, given = ("folder", "file") if folder else ("file", "folder")
            raise DataError(f"{place} is a {given}, and a {due} is needed")
        if not folder:
            with storage.open_input_stream(path) as stream:
                etag = stream.metadata().get("ETag", b"").decode()
            return [Remote(_name(place), found.size, found.mtime_ns, etag)]
        below = storage.get_file_info(FileSelector(path, recursive=True))
    names = ((info.path.removeprefix(f"{path}/"), info) for info in below if info.type == FileType.File)
    files = [Remote(name, info.size, info.mtime_ns) for name, info in names if wanted(name) and not _hidden(name)]
    if wrong := [file.name for file in files if not _stays_below(file.name)]:
        raise DataError(f"{place} has a key that is no path, {wrong[0]!r}; rename it")
    return sorted(files)


def _fetch(place: str, files: Sequence[Remote], new: Path, *, folder: bool, progress: Progress) -> None:
    size, where = sum(file.bytes for file in files), place.removeprefix("s3://").rstrip("/")
    cache = new.parents[2]
    if size > (free := shutil.disk_usage(new.parent).free):
        raise DataError(f"{place} has {size / 1e9:.1f} GB, and the disk of the cache {cache} has {free / 1e9:.1f} GB left")
    base = new / _name(place) if folder else new
    base.mkdir(parents=True)
    storage = _storage()

    def fetch(file: Remote) -> None:
        with _told_about(place):
            stream = storage.open_input_stream(f"{where}/{file.name}" if folder else where)
        with stream:
            _write(base / file.name, file, place, iter(lambda: _read(stream, place), b""))

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done, _ in enumerate(pool.map(fetch, files), 1):
                progress(f"fetching {place}: {done} of {len(files)} files")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read(stream: "AbstractContextManager[object]", place: str) -> bytes:
    with _told_about(place):
        return bytes(stream.read(_CHUNK))  # type: ignore[attr-defined]


def _write(path: Path, file: Remote, place: str, content: Iterator[bytes]) -> None:
    """With the storage's time of change, by which a cache of decoded images knows its files on any machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), path.open("xb") as written:
        for chunk in content:
            written.write(chunk)
    if path.stat().st_size != file.bytes:
        raise DataError(f"{place} changes while it is fetched ({file.name}); try again when it does not")
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))


def _is_whole(path: Path, files: Sequence[Remote], *, folder: bool) -> bool:
    try:
        found = [(path / file.name if folder else path).stat() for file in files]
    except OSError:
        return False
    return path.exists() and all((a.st_size, a.st_mtime_ns) == (b.bytes, b.mtime_ns) for a, b in zip(found, files, strict=True))


def _storage() -> "S3FileSystem":
    """What the environment names, as AWS's own tools read it; without credentials in it, those that AWS finds by itself."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    scheme, _, host = (_endpoint() or "https://").partition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if host else None)
    return S3FileSystem(
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme,
        region=region,
        connect_timeout=_ANSWER_S,
        request_timeout=_ANSWER_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _at() -> str:
    return f" at {_endpoint()}" if _endpoint() else ""


@contextmanager
def _told_about(place: str) -> Iterator[None]:
    """Makes a DataError of what the storage, or who talks to it, raises."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's of a wrong argument is a ValueError
        found = _AWS.search(str(error))
        code, said = (found[1], found[2].strip(" .")) if found else ("", " ".join(str(error).split())[:150])
        if code in _AWAY:
            raise Away(f"the storage{_at()} does not answer for {place} ({said or code}); AWS_ENDPOINT_URL names it") from error
        raise DataError(
            f"{place} cannot be read from the storage{_at()} ({': '.join(filter(None, [code, said]))}); its address and keys are "
            "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment, on every node"
        ) from error


def _name(place: str) -> str:
    return place.rstrip("/").rpartition("/")[2]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _stays_below(name: str) -> bool:
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
