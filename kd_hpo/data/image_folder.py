"""Reads a folder of image files, one sub-folder a class, into the cache."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from errno import EINVAL
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

import numpy as np
from PIL import Image

from kd_hpo.data.cache import ImageSet, Labelling, Progress, open_or_build
from kd_hpo.data.images import few, write_images
from kd_hpo.data.pixels import Depiction, Look, Stored, depicted, fitted, look_at, open_file, require_size
from kd_hpo.data.remote import on_disk
from kd_hpo.errors import DataError, Note

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF")
"""With which image files without a suffix begin."""
OF_SYSTEMS = ("@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini")
"""What a disk station or a system leaves in any folder, in small letters, beside hidden files."""
LIKE_HALVES = ("train", "training", "test", "testing", "val", "valid", "validation")
SMALL = 4096  # bytes a file on average: below it the interpreter lock is the limit, and processes help, not threads
MANY = 4096  # images: below it processes take longer to start than they save


def load_image_folder(cache: Path, path: Path | str, size: int | None = None, *, progress: Progress = lambda _: None) -> ImageSet:
    """Reads images as path/<class>/*.png, or path/train/<class>/*.png with a test half in path/test/<class>/*.png.

    path  a folder, or `s3://BUCKET/PREFIX`, which is fetched into the cache
    size  None keeps the images as they are, all of one size; a number resizes the shorter side to it and crops the centre
    Images are upright (EXIF), the first frame, all grey (C = 1), or all RGB (C = 3) if any has colour; `Depiction` says how those
    of 16 bits and transparent ones are brought to 8 bits. Classes are the sorted folder names; images lie sorted by name, train
    before test. An image file has one of SUFFIXES, or no suffix and one of SIGNATURES. What is left out is told, but for what
    hidden files and OF_SYSTEMS are.
    The cache is keyed by names, sizes and modification times: a later start lists the folder and opens no image.
    Raises DataError for a folder that is no such tree, for images that cannot be read and for sizes that differ.
    """
    require_size(size)
    path = on_disk(path, cache, folder=True, wanted=may_be_image, progress=progress).expanduser().absolute()
    try:
        tree = _list_tree(path)
    except OSError as error:
        raise DataError(f"the image folder {path} cannot be listed: {error}. Check its permissions and links.") from error
    for note in tree.notes:
        progress(Note(f"{path}: {note}"))
    key = hashlib.sha256(f"size {size}\n".encode() + tree.listing).hexdigest()

    def build(folder: Path) -> Labelling:
        files = ImageFiles(path, tree.files, size)
        threads, apart = readers(tree.small, len(tree.files))
        notes = write_images(files, folder, progress, threads=threads, part=files.part if apart else None)
        return tree.labelling._replace(notes=notes, how=files.how)

    return open_or_build(cache, path.name, "image_folder", key, build)


def images_below(path: Path) -> tuple[list["Found"], list[str]]:
    """Lists all images of a folder, however nested and by name, and words on what is left out. Raises DataError for no folder."""
    if not path.is_dir():
        raise DataError(f"the folder {path} does not exist")
    left_out = LeftOut()
    try:
        found = sorted(_walk(path, "", left_out, (_identity(path),)))
    except OSError as error:
        raise DataError(f"the folder {path} cannot be listed: {error}. Check its permissions and links.") from error
    return [file._replace(name=file.name.removeprefix("/")) for file in found], left_out.notes()


class Found(NamedTuple):
    """An image file as its folder lists it."""

    name: str  # relative, with forward slashes
    bytes: int
    mtime_ns: int
    identity: tuple[int, int]
    """What tells the file from others, by whatever name or link."""


@dataclass(frozen=True)
class Tree:
    """The content of an image folder, before any image is opened."""

    files: list[str]
    labelling: Labelling
    listing: bytes
    small: bool
    notes: tuple[str, ...]


def _list_tree(path: Path) -> Tree:
    halves, classes = _layout(path)
    found: list[Found] = []
    labels: list[int] = []
    test_start, left_out = None, LeftOut()
    for folder in {path, *(path / half for half in halves)}:
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_of_a_system(entry.name):
                    if entry.is_dir():
                        left_out.of_a_system(entry)
                elif not entry.is_dir() and _is_image(entry):
                    left_out.beside.append(os.path.relpath(entry.path, path))
    for half in halves:
        if half == "test":
            test_start = len(found)
        for label, name in enumerate(classes):
            prefix = f"{half}/{name}" if half else name
            images = sorted(_walk(path / prefix, prefix, left_out, (_identity(path), _identity(path / prefix))))
            if not images:
                raise DataError(
                    f"the class folder {path / prefix} holds no image; accepted are {', '.join(SUFFIXES)}. "
                    "Fill the folder or remove it."
                )
            found += images
            labels += [label] * len(images)
    listing = listed(found)
    labelling = Labelling(np.array(labels, np.int64), tuple(classes), test_start)
    small = are_small(found)
    notes = (*left_out.notes(), *_rare(labels, classes), *_twice(found))
    return Tree([file.name for file in found], labelling, listing, small, notes)


def listed(found: Sequence[Found]) -> bytes:
    """What stands for the images in the name of what is made of them."""
    return os.fsencode("".join(f"{file.name}\0{file.bytes}\0{file.mtime_ns}\n" for file in found))


def are_small(found: Sequence[Found]) -> bool:
    return sum(file.bytes for file in found) < SMALL * len(found)


def _rare(labels: list[int], classes: list[str]) -> list[str]:
    """Words on classes of one image, which is in one split and missing in the others."""
    counts = np.bincount(labels, minlength=len(classes))
    single = [name for name, count in zip(classes, counts, strict=True) if count == 1]
    return [f"of {few(single)} there is one image only, which one split has and the others lack"] if single else []


def _twice(found: list[Found]) -> list[str]:
    """Words on files that links make two images or more: of two classes, or in two splits."""
    first: dict[tuple[int, int], str] = {}
    again = [file for file in found if first.setdefault(file.identity, file.name) != file.name]
    pairs = [f"{first[file.identity]} is {file.name}" for file in again]
    return [f"{len(pairs)} images are others over again, by links: {few(pairs, 2)}"] if pairs else []


@dataclass
class LeftOut:
    """The entries of a folder that lie among the images and are none of them."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Of files that no suffix or signature says to be images."""
    systems: Counter[str] = field(default_factory=Counter)
    """What systems leave, by name."""
    loops: list[str] = field(default_factory=list)
    """Links to a folder that they lie in."""
    beside: list[str] = field(default_factory=list)
    """Images beside the class folders."""

    def of_a_system(self, entry: os.DirEntry[str]) -> None:
        if entry.is_dir() or not entry.name.startswith("."):
            self.systems[entry.name] += 1
        elif entry.name.lower().endswith(SUFFIXES):
            self.systems["hidden image"] += 1

    def notes(self) -> list[str]:
        told = []
        if self.suffixes:
            each = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.suffixes.items()))
            told.append(f"{self.suffixes.total()} files are left out, as they are no images by their names: {each}")
        if self.systems:
            told.append(f"left out is what systems leave: {', '.join(f'{n} {name}' for name, n in sorted(self.systems.items()))}")
        if self.loops:
            told.append(f"left out are links to folders that they lie in: {few(self.loops)}")
        if self.beside:
            told.append(f"{len(self.beside)} images lie beside the class folders and are left out: {few(sorted(self.beside))}")
        return told


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
    """Raises OSError with the name of a link that leads nowhere: it may be a class."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _is_of_a_system(entry.name) and S_ISDIR(entry.stat().st_mode))


def _is_of_a_system(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in OF_SYSTEMS


def _walk(folder: str | Path, prefix: str, left_out: LeftOut, above: tuple[tuple[int, int], ...]) -> list[Found]:
    """above  what tells the folders that it lies in from others"""
    found: list[Found] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if _is_of_a_system(entry.name):
                left_out.of_a_system(entry)
            elif entry.is_dir():
                here = _identity(entry)
                if here in above:
                    left_out.loops.append(name)
                else:
                    found += _walk(entry.path, name, left_out, (*above, here))
            elif _is_image(entry):
                stat = entry.stat()
                if not S_ISREG(stat.st_mode):
                    raise OSError(EINVAL, "is no regular file", entry.path)
                found.append(Found(name, stat.st_size, stat.st_mtime_ns, (stat.st_dev, stat.st_ino)))
            else:
                left_out.suffixes[Path(entry.name).suffix.lower() or "without a suffix"] += 1
    return found


def _identity(folder: Path | os.DirEntry[str]) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def may_be_image(name: str) -> bool:
    """Whether a file of that name may be an image."""
    return name.lower().endswith(SUFFIXES) or not Path(name).suffix


def _is_image(file: os.DirEntry[str]) -> bool:
    if file.name.lower().endswith(SUFFIXES):
        return True
    if Path(file.name).suffix or not file.is_file():
        return False
    with Path(file.path).open("rb") as opened:
        return opened.read(8).startswith(SIGNATURES)


@dataclass(frozen=True)
class ImageFiles:
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

    def part(self, start: int, stop: int) -> "ImageFiles":
        return replace(self, files=self.files[start:stop])

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int) -> Image.Image:
        return fitted(depicted(self._opened(index), self.how), self.size)

    def look(self, index: int) -> Look:
        return look_at(self._opened(index))

    def _opened(self, index: int) -> Stored:
        return open_file(self.root / self.files[index], self.size)


def readers(small: bool, images: int) -> tuple[int, bool]:
    """How many read the images at once, and whether they are processes: small ones hold the interpreter most of the time."""
    apart = small and images >= MANY
    return 1 if small and not apart else min(8, cores()), apart


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
