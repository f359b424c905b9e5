"""Images that are read by number, written into a cache once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from PIL import Image, UnidentifiedImageError

from kd_hpo.data.cache import Progress, decoded, new_images
from kd_hpo.data.pixels import Depiction, Look, Undecided, Unreadable
from kd_hpo.errors import DataError

CHUNK = 128  # images a task
FEW_TASKS = 2048  # images a task of another process
_FEW_LEVELS = 16


class Images(Protocol):
    @property
    def what(self) -> str:
        """The words for the images, in the plural: "images under /data/pets"."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    @property
    def how(self) -> Depiction:
        """The way that the images are brought to 8 bits; what is not known of it yet is decided by all of them."""
        ...

    def look(self, index: int) -> Look:
        """Tells what one image says about how all are brought to 8 bits."""
        ...

    def read(self, index: int) -> Image.Image:
        """Reads one image, in mode L or RGB.

        A DataError ends the reading; Undecided has all images looked at first; any other error makes this image one of the
        broken ones.
        """
        ...


class _Coloured(Exception):
    """A colour image among grey ones."""


class _Written(NamedTuple):
    broken: list[str]
    """The names of those that cannot be read, and why."""
    low: int
    high: int


Part = Callable[[int, int], Images]
"""(start, stop) -> those images alone, to be sent to another process."""


def write_images(
    images: Images, folder: Path, progress: Progress, *, threads: int = 1, part: Part | None = None
) -> tuple[str, ...]:
    """Writes images to an array from `new_images`: all grey (C = 1), or all RGB (C = 3) if any has colour.

    part  given, as many processes as threads read them instead
    Returns words on how they were read, where that is no matter of course.
    Raises DataError with the number and names of all that cannot be read, if sizes differ, or if nothing is on any of them.
    """
    words: tuple[str, ...] = ()
    try:
        first = _first_readable(images)
        low, high = _write_grey_or_colour(first, images, folder, progress, threads, part)
    except Undecided:
        words = _decide(images, progress, threads)
        first = _first_readable(images)
        low, high = _write_grey_or_colour(first, images, folder, progress, threads, part)
    if low == high:
        raise DataError(
            f"every pixel of all {len(images)} {images.what} has the level {low} of 255: nothing can be learned from them. "
            "Look at how they are stored: as 16 bits, as transparency, as indices"
        )
    if high - low < _FEW_LEVELS:
        words += (f"the pixels of the {images.what} lie between {low} and {high} of 255",)
    return words


def _decide(images: Images, progress: Progress, threads: int) -> tuple[str, ...]:
    """Looks at all of them; the broken ones are told when they are read."""

    def look(index: int) -> Look | None:
        try:
            return images.look(index)
        except DataError:
            raise
        except Exception:
            return None

    def looks(found: Iterable[Look | None]) -> Iterator[Look]:
        for done, each in enumerate(found, 1):
            if done % CHUNK == 0 or done == len(images):
                progress(f"looking at images: {done} of {len(images)}")
            if each is not None:
                yield each

    if threads == 1:
        return images.how.decide(looks(map(look, range(len(images)))))
    with ThreadPoolExecutor(threads) as pool:
        return images.how.decide(looks(pool.map(look, range(len(images)))))


def _write_grey_or_colour(
    first: Image.Image, images: Images, folder: Path, progress: Progress, threads: int, part: Part | None
) -> tuple[int, int]:
    """Returns their lowest and highest level."""
    try:
        return _write_as(first.mode, first.size, images, folder, progress, threads, part)
    except _Coloured:
        return _write_as("RGB", first.size, images, folder, progress, threads, part)


def _write_as(
    mode: str,
    size: tuple[int, int],
    images: Images,
    folder: Path,
    progress: Progress,
    threads: int,
    part: Part | None,
) -> tuple[int, int]:
    total, (width, height) = len(images), size
    pixels = new_images(folder, (total, len(mode), height, width))
    broken: list[str] = []
    low, high = 255, 0

    def write_chunk(start: int) -> _Written:
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
        for done, (problems, lowest, highest) in enumerate(results, 1):
            broken, low, high = broken + problems, min(low, lowest), max(high, highest)
            progress(decoded(min(done * chunk, total), total))
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        if part is not None and threads > 1:
            get_reusable_executor().shutdown()
    if broken:
        raise _unreadable(images, broken)
    return low, high


def _write_part(images: Images, file: Path, start: int, mode: str, size: tuple[int, int]) -> _Written:
    """In a process of its own: `images` stand from `start` in the file."""
    pixels = np.load(file, mmap_mode="r+", allow_pickle=False)
    return _write_some(images, range(len(images)), pixels[start : start + len(images)], mode, size)


def _write_some(images: Images, which: range, pixels: npt.NDArray[np.uint8], mode: str, size: tuple[int, int]) -> _Written:
    problems = [(index, _write_one(images, index, out, mode, size)) for index, out in zip(which, pixels, strict=True)]
    broken = [f"{images.name(index)} ({problem})" for index, problem in problems if problem]
    return _Written(broken, int(pixels.min()), int(pixels.max()))


def _write_one(images: Images, index: int, out: npt.NDArray[np.uint8], mode: str, size: tuple[int, int]) -> str | None:
    """Writes one image to out (C, H, W); returns why it cannot be read, or None."""
    try:
        image = images.read(index)
    except (DataError, Undecided):
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
        except (DataError, Undecided):
            raise
        except Exception as error:
            broken.append(f"{images.name(index)} ({reason(error)})")
    raise _unreadable(images, broken)


def _unreadable(images: Images, broken: Sequence[str]) -> DataError:
    return DataError(
        f"{len(broken)} of {len(images)} {images.what} cannot be read: {few(broken)}. Replace or remove them and start again."
    )


def kind_of(value: Any) -> str:
    """Names the kind of a value in a message: "a dict", "a tuple of 3"."""
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def reason(error: Exception) -> str:
    """Tells why an image cannot be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    said = str(error).strip().splitlines()
    return said[0] if isinstance(error, Unreadable) else ": ".join([type(error).__name__, *said[:1]])


def few(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
