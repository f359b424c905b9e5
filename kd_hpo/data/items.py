"""Images that are read by number: written into a cache once, and the (image, label) items of data sets as such images."""

import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from PIL import Image, UnidentifiedImageError

from kd_hpo.data.cache import Labelling, Progress, decoded, new_images
from kd_hpo.data.pixels import Unreadable, as_image, fitted
from kd_hpo.errors import DataError

CHUNK = 128  # images a task
FEW_TASKS = 2048  # images a task of another process
SAMPLE = 64  # items of each half that stand for all of them in a digest
HALVES = ("train", "test")


class Images(Protocol):
    @property
    def what(self) -> str:
        """What they are, in the plural: "images under /data/pets"."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> Image.Image:
        """Of mode L or RGB. A DataError ends the reading; any other error makes this image one of the broken ones."""
        ...


class _Coloured(Exception):
    """A colour image among grey ones."""


Part = Callable[[int, int], Images]
"""(start, stop) -> those images alone, to be sent to another process."""


def write_images(images: Images, folder: Path, progress: Progress, *, threads: int = 1, part: Part | None = None) -> None:
    """Writes them to an array from `new_images`: all grey (C = 1), or all RGB (C = 3) if any has colour.

    part  given, as many processes as threads read them instead
    Raises DataError with the number and names of all that cannot be read, or if sizes differ.
    """
    first = _first_readable(images)
    try:
        _write_as(first.mode, first.size, images, folder, progress, threads, part)
    except _Coloured:
        _write_as("RGB", first.size, images, folder, progress, threads, part)


def _write_as(
    mode: str,
    size: tuple[int, int],
    images: Images,
    folder: Path,
    progress: Progress,
    threads: int,
    part: Part | None,
) -> None:
    total, (width, height) = len(images), size
    pixels = new_images(folder, (total, len(mode), height, width))
    broken: list[str] = []

    def write_chunk(start: int) -> list[str]:
        return _write_some(images, range(start, min(start + CHUNK, total)), pixels[start : start + CHUNK], mode, size)

    # A data set may want to be read in the thread that opened it.
    pool = ThreadPoolExecutor(threads) if threads > 1 and part is None else None
    chunk, starts = CHUNK, range(0, total, CHUNK)
    if part is not None and threads > 1:
        chunk, file = FEW_TASKS, folder / "images.npy"
        ends = [(start, min(start + chunk, total)) for start in range(0, total, chunk)]
        workers = Parallel(n_jobs=threads, return_as="generator")
        results = workers(delayed(_write_part)(part(start, stop), file, start, mode, size) for start, stop in ends)
    else:
        results = (pool.map if pool else map)(write_chunk, starts)
    try:
        for done, problems in enumerate(results, 1):
            broken += problems
            progress(decoded(min(done * chunk, total), total))
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        if part is not None and threads > 1:
            get_reusable_executor().shutdown()
    if broken:
        raise _unreadable(images, broken)


def _write_part(images: Images, file: Path, start: int, mode: str, size: tuple[int, int]) -> list[str]:
    """In a process of its own: `images` stand from `start` in the file."""
    pixels = np.load(file, mmap_mode="r+", allow_pickle=False)
    return _write_some(images, range(len(images)), pixels[start : start + len(images)], mode, size)


def _write_some(images: Images, which: range, pixels: npt.NDArray[np.uint8], mode: str, size: tuple[int, int]) -> list[str]:
    """Returns the names of those that cannot be read, and why."""
    problems = ((index, _write_one(images, index, out, mode, size)) for index, out in zip(which, pixels, strict=True))
    return [f"{images.name(index)} ({problem})" for index, problem in problems if problem]


def _write_one(images: Images, index: int, out: npt.NDArray[np.uint8], mode: str, size: tuple[int, int]) -> str | None:
    """Writes one image to out (C, H, W); returns why it cannot be read, or None."""
    try:
        image = images.read(index)
    except DataError:
        raise
    except Exception as error:  # a broken file raises nearly any type, a user's data set too; the user is told all of them
        return reason(error)
    if image.size != size:
        (width, height), (first_width, first_height) = image.size, size
        raise DataError(
            f"the {images.what} differ in size: {images.name(index)} is {width} x {height}, others are "
            f"{first_width} x {first_height}. Set `size`: each is then resized to it on its shorter side and cropped."
        )
    if mode == "L" and image.mode != "L":
        raise _Coloured
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    out[:] = array[None] if mode == "L" else array.transpose(2, 0, 1)
    return None


def _first_readable(images: Images) -> Image.Image:
    broken = []
    for index in range(len(images)):
        try:
            return images.read(index)
        except DataError:
            raise
        except Exception as error:
            broken.append(f"{images.name(index)} ({reason(error)})")
    raise _unreadable(images, broken)


def _unreadable(images: Images, broken: Sequence[str]) -> DataError:
    return DataError(
        f"{len(broken)} of {len(images)} {images.what} cannot be read: {few(broken)}. Replace or remove them and start again."
    )


class DataSet(Protocol):
    """Of (image, label), as torch's map-style data sets are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Items:
    """The items of one data set, or of two, train and test, as images; `as_image` says what an image may be.

    source   what the items are of, for messages
    classes  their names; None where the labels are all that is known
    size     as in load_image_folder
    """

    def __init__(self, source: str, halves: Sequence[DataSet], classes: tuple[str, ...] | None, size: int | None) -> None:
        self.source, self.halves, self.classes, self.size = source, halves, classes, size
        for name, half in zip(HALVES, halves, strict=False):
            if not len(half):
                raise DataError(f"{source} has no item{f' in its {name} half' if len(halves) > 1 else ''}. Give it some.")
        self._labels = np.zeros(len(self), np.int64)

    @property
    def what(self) -> str:
        return f"items of {self.source}"

    def __len__(self) -> int:
        return sum(map(len, self.halves))

    def name(self, index: int) -> str:
        half, number = self._place(index)
        return f"{HALVES[half]} item {number}" if len(self.halves) > 1 else f"item {number}"

    def read(self, index: int) -> Image.Image:
        image, self._labels[index] = self._item(index)
        return fitted(image, self.size)

    def labelling(self) -> Labelling:
        """Once every item is read."""
        classes = self.classes or tuple(str(label) for label in range(int(self._labels.max()) + 1))
        if len(classes) < 2:
            raise DataError(f"the {self.what} are all of one class; accepted are labels of at least two, as 0, 1 and so on.")
        return Labelling(self._labels, classes, len(self.halves[0]) if len(self.halves) > 1 else None)

    def digest(self) -> str:
        """sha256 of lengths, class names and up to SAMPLE evenly spread items of each half, in hex."""
        lengths = [len(half) for half in self.halves]
        digest = hashlib.sha256(repr((lengths, self.classes)).encode())
        for start, length in zip((0, lengths[0]), lengths, strict=False):
            for number in np.linspace(0, length - 1, min(SAMPLE, length)).astype(int):
                try:
                    image, label = self._item(start + int(number))
                except DataError:
                    raise
                except Exception:  # named and counted when all items are read
                    digest.update(b"broken")
                else:
                    digest.update(f"{image.mode} {image.size} {label}\n".encode() + image.tobytes())
        return digest.hexdigest()

    def _place(self, index: int) -> tuple[int, int]:
        start = len(self.halves[0])
        return (0, index) if index < start else (1, index - start)

    def _item(self, index: int) -> tuple[Image.Image, int]:
        half, number = self._place(index)
        item, name = self.halves[half][number], f"{self.name(index)} of {self.source}"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{name} is {kind_of(item)}; accepted are pairs (image, label).")
        return as_image(item[0], name), self._label(item[1], name)

    def _label(self, value: Any, name: str) -> int:
        try:
            label = operator.index(value)
        except TypeError:
            label = -1
        if label < 0:
            raise DataError(f"{name} has the label {' '.join(repr(value).split())[:60]}; accepted are whole numbers from 0 up.")
        if self.classes and label >= len(self.classes):
            raise DataError(f"{name} has the label {label}, and `classes` names {len(self.classes)}: accepted are numbers below.")
        return label


def class_names(source: str, data_sets: Iterable[Any]) -> tuple[str, ...] | None:
    """What the data sets call their classes; None if none says. Raises DataError if they do not agree."""
    said: list[tuple[str, ...]] = []
    for data_set in data_sets:
        classes = getattr(data_set, "classes", None)
        if isinstance(classes, tuple | list) and classes:  # Imagenette has several names a class
            said.append(tuple(", ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in classes))
    for other in said[1:]:
        if other != said[0]:
            differ = sorted(set(said[0]) ^ set(other))
            raise DataError(
                f"{source}: train and test must have the same `classes` in the same order, and "
                + (f"{few(differ)} {'is' if len(differ) == 1 else 'are'} only in one." if differ else "their orders differ.")
            )
    return said[0] if said else None


def kind_of(value: Any) -> str:
    """For a message: "a dict", "a tuple of 3"."""
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def reason(error: Exception) -> str:
    """Why an image cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    said = str(error).strip().splitlines()
    return said[0] if isinstance(error, Unreadable) else ": ".join([type(error).__name__, *said[:1]])


def few(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
