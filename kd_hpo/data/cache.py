"""Decoded images on disk: written once, then a read-only memory map that every process shares."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kd_hpo.data.arrays import read_array
from kd_hpo.data.pixels import Depiction
from kd_hpo.errors import DataError
from kd_hpo.files import cached, reserve

FORMAT = 3
"""Raise it when the pixels of the same source change: every cache of an older format is then built again."""

Progress = Callable[[str], None]
"""Told in words what is being done."""


def decoded(done: int, total: int) -> str:
    return f"decoding images: {done} of {total}"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Decoded images, read-only memory map shared between processes."""

    name: str
    images: npt.NDArray[np.uint8]
    """(N, C, H, W), C-contiguous; C is 1 or 3."""
    labels: npt.NDArray[np.int64]
    """(N,), indices into `classes`."""
    classes: tuple[str, ...]
    test_start: int | None
    """images[test_start:] are the data set's own test half; None where it has none."""
    digest: str
    """sha256 of pixels, labels, class names and test_start, in hex: the same wherever the same pixels were decoded."""
    notes: tuple[str, ...] = ()
    """Words on how the images were read, where that is no matter of course."""
    how: Depiction = field(default_factory=Depiction)
    """How they were brought to 8 bits, for others that are to be read alike; caches of earlier versions do not say it."""


class Labelling(NamedTuple):
    """What a builder knows of images besides the pixels; the fields are those of ImageSet."""

    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    test_start: int | None
    notes: tuple[str, ...] = ()
    how: Depiction = Depiction()


def new_images(folder: Path, shape: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """An (N, C, H, W) array to write into, backed by a file in `folder`. Raises DataError if the disk is too full."""
    need, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder).free
    if need > free:  # writing to a map without room would kill the process instead of raising
        raise DataError(
            f"{shape[0]} decoded images take {need / 1e9:.1f} GB and the disk of the cache has {free / 1e9:.1f} GB left. "
            "Free some space, put the cache elsewhere, or ask for a smaller `size`."
        )
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    reserve(folder / "images.npy")  # another process may fill the disk meanwhile
    return images


def open_or_build(cache: Path, name: str, kind: str, key: str, build: Callable[[Path], Labelling]) -> ImageSet:
    """The image set that `key` stands for, built at the first call.

    build(folder)  writes the pixels to an array from `new_images(folder, shape)` and returns the labels
    One process builds, the others wait for it. A cache that is truncated or of another kind is built again.
    Raises DataError where the cache cannot be written.
    """
    try:
        return cached(
            cache / f"{kind}-{key[:24]}",
            read=lambda home: _read(home, name, key),
            make=lambda new: _build(new, key, build),
        )
    except OSError as error:
        raise DataError(f"the image cache {cache} cannot be written: {error}. Choose a local folder you may write to.") from error


def _read(home: Path, name: str, key: str) -> ImageSet | None:
    """The cache in `home`, or None where it is missing, truncated or not this one."""
    try:
        meta = json.loads((home / "meta.json").read_text())
        if (meta["format"], meta["key"]) != (FORMAT, key):
            return None
        images = read_array(home / "images.npy", np.uint8, tuple(meta["shape"]), mapped=True)
        labels = read_array(home / "labels.npy", np.int64, images.shape[:1], mapped=True)
        bits, ground = meta.get("how", (None, None))
        found = ImageSet(
            name,
            images,
            labels,
            tuple(meta["classes"]),
            meta["test_start"],
            meta["digest"],
            tuple(meta["notes"]),
            Depiction(bits, ground),
        )
    except (DataError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if _consistent(found) else None


def _consistent(images: ImageSet) -> bool:
    """Whether what describes the pixels fits them, which nobody asks again."""
    count, start = len(images.labels), images.test_start
    return (
        images.images.ndim == 4
        and count > 0
        and all(isinstance(name, str) for name in images.classes)
        and 0 <= images.labels.min() <= images.labels.max() < len(images.classes)
        and (start is None or (type(start) is int and 0 <= start <= count))
        and isinstance(images.digest, str)
        and all(isinstance(note, str) for note in images.notes)
        and images.how.bits in (None, *range(8, 17))
        and images.how.ground in (None, *range(256))
    )


def _build(new: Path, key: str, build: Callable[[Path], Labelling]) -> None:
    new.mkdir()
    labelling = build(new)
    np.save(new / "labels.npy", labelling.labels.astype(np.int64))
    images = np.lib.format.open_memmap(new / "images.npy", mode="r+")
    images.flush()
    meta = {
        "format": FORMAT,
        "key": key,
        "shape": images.shape,
        "classes": labelling.classes,
        "test_start": labelling.test_start,
        "digest": _digest(images, labelling),
        "notes": labelling.notes,
        "how": (labelling.how.bits, labelling.how.ground),
    }
    (new / "meta.json").write_text(json.dumps(meta))


def _digest(images: npt.NDArray[np.uint8], labelling: Labelling) -> str:
    digest = hashlib.sha256(json.dumps([images.shape, labelling.classes, labelling.test_start]).encode())
    digest.update(labelling.labels.astype("<i8").tobytes())
    digest.update(images.data)
    return digest.hexdigest()
