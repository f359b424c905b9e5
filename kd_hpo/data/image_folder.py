"""Reads a folder of image files, one sub-folder a class, into the cache."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kd_hpo.data.cache import ImageSet, Labelling, Progress, open_or_build
from kd_hpo.data.images import few, write_images
from kd_hpo.data.pixels import Depiction, Look, depicted, fitted, look_at, open_file, require_size
from kd_hpo.data.remote import on_disk
from kd_hpo.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LIKE_HALVES = ("train", "training", "test", "testing", "val", "valid", "validation")
SMALL = 4096  # bytes a file on average: below it the interpreter lock is the limit, and processes help, not threads
MANY = 4096  # images: below it processes take longer to start than they save


def load_image_folder(cache: Path, path: Path | str, size: int | None = None, *, progress: Progress = lambda _: None) -> ImageSet:
    """Images as path/<class>/*.png, or path/train/<class>/*.png with a test half in path/test/<class>/*.png.

    path  a folder, or `s3://BUCKET/PREFIX`, which is fetched into the cache
    size  None keeps the images as they are, all of one size; a number resizes the shorter side to it and crops the centre
    Images are upright (EXIF), 8 bits, the first frame, without alpha: all grey (C = 1), or all RGB (C = 3) if any has colour.
    Classes are the sorted folder names; images lie sorted by name, train before test. Hidden files are skipped.
    The cache is keyed by names, sizes and modification times: a later start lists the folder and opens no image.
    Raises DataError for a folder that is no such tree, for images that cannot be read and for sizes that differ.
    """
    require_size(size)
    path = on_disk(path, cache, folder=True, only=SUFFIXES, progress=progress).expanduser().absolute()
    try:
        tree = _list_tree(path)
    except OSError as error:
        raise DataError(f"the image folder {path} cannot be listed: {error}. Check its permissions and links.") from error
    key = hashlib.sha256(f"size {size}\n".encode() + tree.listing).hexdigest()

    def build(folder: Path) -> Labelling:
        files, apart = _Files(path, tree.files, size), tree.small and len(tree.files) >= MANY
        threads = 1 if tree.small and not apart else min(8, cores())
        notes = write_images(files, folder, progress, threads=threads, part=files.part if apart else None)
        return tree.labelling._replace(notes=notes)

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
                f"{path} holds {few(others)} beside train; accepted are train and test. The outer and val splits are "
                "cut out of train: move those images there, or give a folder with links to train and test alone."
            )
        if "test" in halves and (differ := sorted(set(train) ^ set(_subfolders(path / "test")))):
            raise DataError(
                f"{path}: train and test must hold the same classes, and {few(differ)} "
                f"{'is' if len(differ) == 1 else 'are'} only in one. Add or remove those folders."
            )
    elif nested := [name for name in classes if name.lower() in LIKE_HALVES and _subfolders(path / name)]:
        raise DataError(
            f"{path} holds {few(nested)} with folders inside; accepted are path/train/<class>/*.png with, if there is a test "
            "half, path/test/<class>/*.png. Rename the halves so, or, if they are classes, take their images out of folders."
        )
    if len(classes) < 2 or classes == ["test", "train"]:
        raise DataError(
            f"{path} holds {few(classes) if classes else 'no sub-folder'}; accepted are at least two class folders, "
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


@dataclass(frozen=True)
class _Files:
    """The image files of a folder, as items.Images."""

    root: Path
    files: list[str]
    size: int | None
    how: Depiction = field(default_factory=Depiction)

    @property
    def what(self) -> str:
        return f"images under {self.root}"

    def __len__(self) -> int:
        return len(self.files)

    def part(self, start: int, stop: int) -> "_Files":
        return replace(self, files=self.files[start:stop])

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int) -> Image.Image:
        return fitted(depicted(self._opened(index), self.how), self.size)

    def look(self, index: int) -> Look:
        return look_at(self._opened(index))

    def _opened(self, index: int) -> Image.Image:
        return open_file(self.root / self.files[index], self.size)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
