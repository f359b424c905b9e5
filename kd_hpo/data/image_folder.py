"""Reads a folder of image files, one sub-folder a class, into the cache."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from kd_hpo.data.cache import ImageSet, Labelling, Progress, new_images, open_or_build
from kd_hpo.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CHUNK = 128  # images a task
SMALL = 4096  # bytes a file on average: below it the interpreter lock is the limit, and more threads only pass it around


def load_image_folder(cache: Path, path: Path, size: int | None = None, *, progress: Progress | None = None) -> ImageSet:
    """Images as path/<class>/*.png, or path/train/<class>/*.png with a test half in path/test/<class>/*.png.

    size  None keeps the images as they are, all of one size; a number resizes the shorter side to it and crops the centre
    Images are upright (EXIF), 8 bits, the first frame, without alpha: all grey (C = 1), or all RGB (C = 3) if any has colour.
    Classes are the sorted folder names; images lie sorted by name, train before test. Hidden files are skipped.
    The cache is keyed by names, sizes and modification times: a later start lists the folder and opens no image.
    Raises DataError for a folder that is no such tree, for images that cannot be read and for sizes that differ.
    """
    if size is not None and size < 1:
        raise DataError(f"size is {size}; accepted are a number of pixels from 1 up, or none to keep the images as they are.")
    path = path.expanduser().absolute()
    try:
        tree = _list_tree(path)
    except OSError as error:
        raise DataError(f"the image folder {path} cannot be listed: {error}. Check its permissions and links.") from error
    key = hashlib.sha256(f"size {size}\n".encode() + tree.listing).hexdigest()

    def build(folder: Path) -> Labelling:
        _Decoder(path, tree.files, size, 1 if tree.small else min(8, _cores())).write(folder, progress)
        return tree.labelling

    return open_or_build(cache, path.name, "image_folder", key, build)


class Found(NamedTuple):
    """An image file as its folder lists it."""

    name: str  # relative, with forward slashes
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Tree:
    """What lies in an image folder, before any image is opened."""

    files: list[str]
    labelling: Labelling
    listing: bytes
    small: bool


def _list_tree(path: Path) -> Tree:
    halves, classes = _layout(path)
    found: list[Found] = []
    labels: list[int] = []
    test_start = None
    for half in halves:
        if half == "test":
            test_start = len(found)
        for label, name in enumerate(classes):
            prefix = f"{half}/{name}" if half else name
            images = sorted(_walk(path / prefix, prefix))
            if not images:
                raise DataError(
                    f"the class folder {path / prefix} holds no image; accepted are {', '.join(SUFFIXES)}. "
                    "Fill the folder or remove it."
                )
            found += images
            labels += [label] * len(images)
    listing = os.fsencode("".join(f"{file.name}\0{file.bytes}\0{file.mtime_ns}\n" for file in found))
    labelling = Labelling(np.array(labels, np.int64), tuple(classes), test_start)
    small = sum(file.bytes for file in found) < SMALL * len(found)
    return Tree([file.name for file in found], labelling, listing, small)


def _layout(path: Path) -> tuple[list[str], list[str]]:
    """The halves, "" for a folder that is not halved, and the class folders in each."""
    if not path.is_dir():
        raise DataError(f"the image folder {path} does not exist. Give a folder that holds one sub-folder a class.")
    halves, classes = [""], _subfolders(path)
    if "train" in classes and (train := _subfolders(path / "train")):
        halves, classes = sorted(classes, reverse=True), train  # train before test
        if others := [half for half in halves if half not in ("train", "test")]:
            raise DataError(
                f"{path} holds {_few(others)} beside train; accepted are train and test. The outer and val splits are "
                "cut out of train: move those images there, or give a folder with links to train and test alone."
            )
        if "test" in halves and (differ := sorted(set(train) ^ set(_subfolders(path / "test")))):
            raise DataError(
                f"{path}: train and test must hold the same classes, and {_few(differ)} "
                f"{'is' if len(differ) == 1 else 'are'} only in one. Add or remove those folders."
            )
    if len(classes) < 2 or classes == ["test", "train"]:
        raise DataError(
            f"{path} holds {_few(classes) if classes else 'no sub-folder'}; accepted are at least two class folders, "
            "as path/<class>/*.png or path/train/<class>/*.png. Put the images of each class into a folder of its own."
        )
    return halves, classes


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")))


def _walk(folder: str | Path, prefix: str) -> list[Found]:
    found: list[Found] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found += _walk(entry.path, name)
            elif entry.name.lower().endswith(SUFFIXES):
                stat = entry.stat()
                found.append(Found(name, stat.st_size, stat.st_mtime_ns))
    return found


class _Coloured(Exception):
    """A colour image among grey ones."""


@dataclass(frozen=True)
class _Decoder:
    root: Path
    files: list[str]
    size: int | None
    threads: int

    def write(self, folder: Path, progress: Progress | None) -> None:
        first = self._first_readable()
        try:
            self._write_as(first.mode, folder, first.size, progress)
        except _Coloured:
            self._write_as("RGB", folder, first.size, progress)

    def _write_as(self, mode: str, folder: Path, size: tuple[int, int], progress: Progress | None) -> None:
        total, (width, height) = len(self.files), size
        images = new_images(folder, (total, len(mode), height, width))
        broken: list[str] = []

        def decode_chunk(start: int) -> list[str]:
            return [
                f"{self.files[index]} ({problem})"
                for index in range(start, min(start + CHUNK, total))
                if (problem := self._decode_into(images[index], index, mode, size))
            ]

        pool = ThreadPoolExecutor(self.threads)
        try:
            for done, problems in enumerate(pool.map(decode_chunk, range(0, total, CHUNK)), 1):
                broken += problems
                if progress is not None:
                    progress(min(done * CHUNK, total), total)
        finally:
            pool.shutdown(cancel_futures=True)
        if broken:
            raise self._unreadable(broken)

    def _decode_into(self, out: npt.NDArray[np.uint8], index: int, mode: str, size: tuple[int, int]) -> str | None:
        """Writes one image to out (C, H, W); returns why it cannot be read, or None."""
        try:
            image = decode(self.root / self.files[index], self.size)
        except Exception as error:  # Pillow raises nearly any type for a broken file; the user is told all of them
            return _reason(error)
        if image.size != size:
            (width, height), (first_width, first_height) = image.size, size
            raise DataError(
                f"the images under {self.root} differ in size: {self.files[index]} is {width} x {height}, others are "
                f"{first_width} x {first_height}. Set `size`: each is then resized to it on its shorter side and cropped."
            )
        if mode == "L" and image.mode != "L":
            raise _Coloured
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        out[:] = pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
        return None

    def _first_readable(self) -> Image.Image:
        broken = []
        for name in self.files:
            try:
                return decode(self.root / name, self.size)
            except Exception as error:
                broken.append(f"{name} ({_reason(error)})")
        raise self._unreadable(broken)

    def _unreadable(self, broken: Sequence[str]) -> DataError:
        return DataError(
            f"{len(broken)} of {len(self.files)} images under {self.root} cannot be read: {_few(broken)}. "
            "Replace or remove them and start again."
        )


def decode(file: Path, size: int | None) -> Image.Image:
    """The first frame of an image file, upright, of mode L (grey) or RGB; `size` as in load_image_folder."""
    with Image.open(file) as opened:
        kind = opened.format
        if size is not None:
            opened.draft(None, (2 * size, 2 * size))  # lets a JPEG decode at a fraction of its size
        image = _eight_bits(ImageOps.exif_transpose(opened), kind)
    return image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"{kind} of mode {image.mode}, whose range is unknown")
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _few(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
