"""Files and folders of S3-compatible storage: fetched once, fetched again when they change, missed by name."""

import errno
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_hpo.data.image_folder import load_image_folder, may_be_image
from kd_hpo.data.remote import listing, on_disk
from kd_hpo.errors import DataError
from tests.storage import BUCKET, Storage, running_storage

PETS, WEIGHTS = f"s3://{BUCKET}/of/pets", f"s3://{BUCKET}/teacher.safetensors"


@pytest.fixture(scope="module")
def running() -> Iterator[Storage]:
    with running_storage() as storage:
        yield storage


@pytest.fixture
def storage(running: Storage) -> Storage:
    """With a folder of two classes, and a file."""
    found = running.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    for item in found:
        running.client.delete_object(Bucket=BUCKET, Key=item["Key"])
    for name in ("cat/0.jpg", "cat/1.JPG", "dog/0.jpg", "dog/notes.txt", ".trash/2.jpg"):
        running.put(f"of/pets/{name}", name.encode())
    running.put("of/pets/", b"")  # as consoles make folders
    running.put("of/pets2/cat/9.jpg", b"of another folder")
    running.put("teacher.safetensors", b"weights")
    running.take_got()
    return running


def images(cache: Path, place: str = PETS) -> Path:
    return on_disk(place, cache, folder=True, wanted=may_be_image)


def said(place: str, cache: Path, *, folder: bool) -> str:
    with pytest.raises(DataError) as caught:
        on_disk(place, cache, folder=folder)
    return str(caught.value)


def test_a_path_is_left_alone(tmp_path: Path) -> None:
    assert on_disk(tmp_path / "x", tmp_path / "cache", folder=False) == tmp_path / "x"
    assert not list(tmp_path.iterdir())


def test_a_folder_is_fetched_once_with_the_times_of_the_storage(storage: Storage, tmp_path: Path) -> None:
    found = images(tmp_path)
    assert found.name == "pets"
    files = {str(path.relative_to(found)): path.read_text() for path in found.rglob("*") if path.is_file()}
    assert files == {name: name for name in ("cat/0.jpg", "cat/1.JPG", "dog/0.jpg")}
    assert storage.take_got() == sorted(f"of/pets/{name}" for name in files)
    changed = {item.name: item.mtime_ns for item in listing(PETS, folder=True, wanted=may_be_image)}
    assert {name: (found / name).stat().st_mtime_ns for name in files} == changed
    assert images(tmp_path) == found and storage.take_got() == []
    assert images(tmp_path, f"{PETS}/") == images(tmp_path, f"{PETS}/")


def test_a_file_keeps_its_name_and_is_fetched_again_when_it_changes(storage: Storage, tmp_path: Path) -> None:
    first = on_disk(WEIGHTS, tmp_path, folder=False)
    assert (first.name, first.read_bytes()) == ("teacher.safetensors", b"weights")
    storage.put("teacher.safetensors", b"WEIGHTS")  # as many bytes, perhaps in the same second
    second = on_disk(WEIGHTS, tmp_path, folder=False)
    assert second.read_bytes() == b"WEIGHTS" and first.read_bytes() == b"weights"


@pytest.mark.parametrize("how", ["cut", "gone", "newer"])
def test_a_copy_that_was_spoilt_is_fetched_again(storage: Storage, tmp_path: Path, how: str) -> None:
    file = images(tmp_path) / "cat/0.jpg"
    match how:
        case "cut":
            file.write_bytes(b"")
        case "gone":
            file.unlink()
        case "newer":
            os.utime(file)
    assert images(tmp_path) / "cat/0.jpg" == file and file.read_text() == "cat/0.jpg"


def test_one_fetches_while_the_others_wait(storage: Storage, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(images, [tmp_path] * 6))
    assert len(found) == 1 and len(storage.take_got()) == 3


def test_a_fetched_folder_is_decoded_once_wherever_it_was_fetched(storage: Storage, tmp_path: Path) -> None:
    for index in range(4):
        file = tmp_path / f"{index}.jpg"
        Image.fromarray(np.full((8, 8), 60 * index, np.uint8)).save(file)
        storage.put(f"grey/{'ab'[index // 2]}/{index}.jpg", file.read_bytes())
    place, cache = f"s3://{BUCKET}/grey", tmp_path / "cache"
    here, there = (images(tmp_path / node, place) for node in ("here", "there"))
    assert here != there
    assert load_image_folder(cache, here).digest == load_image_folder(cache, there).digest
    assert len(list(cache.glob("image_folder-*"))) == 1


def test_what_is_not_there_is_told_by_name(storage: Storage, tmp_path: Path) -> None:
    at = f"the storage at {storage.endpoint}"
    assert said(f"s3://{BUCKET}/no/such", tmp_path, folder=True) == (
        f"s3://{BUCKET}/no/such is not there: {at} has nothing at no/such in the bucket {BUCKET}"
    )
    assert said("s3://no-bucket/x", tmp_path, folder=False) == f"s3://no-bucket/x is not there: {at} has no bucket no-bucket"
    assert said(WEIGHTS, tmp_path, folder=True) == f"{WEIGHTS} is a file, and a folder is needed"
    assert said(PETS, tmp_path, folder=False) == f"{PETS} is a folder, and a file is needed"
    assert not list(tmp_path.glob("s3-*"))


@pytest.mark.parametrize("key", ["of/pets/../x.jpg", "of/pets/cat//1.jpg"])
def test_a_key_cannot_leave_its_folder(storage: Storage, tmp_path: Path, key: str) -> None:
    storage.put(key, b"x")
    assert said(PETS, tmp_path, folder=True) == f"{PETS} has a key that is no path, {key.removeprefix('of/pets/')!r}; rename it"
    assert not list(tmp_path.glob("**/*.jpg"))


def test_without_its_keys_the_storage_is_not_read(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    told = said(PETS, tmp_path, folder=True)
    assert told.startswith(f"{PETS} cannot be read from the storage at {storage.endpoint} (ACCESS_DENIED")
    assert "AWS_SECRET_ACCESS_KEY of the environment, on every node" in told and "\n" not in told


@pytest.mark.parametrize("endpoint", ["nobody", "hangs", "no URI"])
def test_a_storage_that_does_not_answer_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if endpoint == "hangs":
            listening.listen()
        address = "ftp://x" if endpoint == "no URI" else f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
        monkeypatch.setattr("kd_hpo.data.remote._ANSWER_S", 1.0)
        started = time.monotonic()
        told = said(PETS, tmp_path, folder=True)
    assert time.monotonic() - started < 30
    assert address in told and PETS in told and "AWS_ENDPOINT_URL" in told and "\n" not in told and "s3cr3t" not in told


def test_what_was_fetched_serves_while_the_storage_is_away(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial goes on, whatever the storage does; the latest copy serves, and that is told."""
    on_disk(WEIGHTS, tmp_path, folder=False)
    storage.put("teacher.safetensors", b"newer")
    latest = on_disk(WEIGHTS, tmp_path, folder=False)
    told: list[str] = []
    monkeypatch.setattr("kd_hpo.data.remote.listing", away)
    assert on_disk(WEIGHTS, tmp_path, folder=False, progress=told.append) == latest
    assert told == ["the storage is away; what was fetched before serves"]
    with pytest.raises(DataError, match="the storage is away"):
        images(tmp_path)


def away(*_: object, **__: object) -> None:
    from kd_hpo.data.remote import Away

    raise Away("the storage is away")


def test_what_breaks_off_leaves_nothing(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.utime
    calls: list[object] = []

    def full(*arguments: object, **more: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))
        real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(OSError, match="No space left"):
        images(tmp_path)
    assert not list(tmp_path.glob("s3-*/*"))


def test_a_disk_too_small_is_told_before(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    assert "and the disk of the cache" in said(PETS, tmp_path, folder=True)
    assert storage.take_got() == []
