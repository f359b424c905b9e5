"""Reads images without labels, on which the student is compared with its teacher, as the data's own images are read."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from kd_hpo.data.batches import Indices, drawn_batch
from kd_hpo.data.cache import ImageSet, Labelling, Progress, open_or_build
from kd_hpo.data.image_folder import SUFFIXES, ImageFiles, are_small, images_below, listed, may_be_image, readers
from kd_hpo.data.images import write_images
from kd_hpo.data.pixels import Depiction, Look
from kd_hpo.data.remote import on_disk
from kd_hpo.errors import DataError, Note

_DRAW = 2
"""Of the draws with a seed: this one."""


_INSTEAD = "give another folder, extra for the images that no split holds, or null to do without"


def drawn_of(images: Indices, most: int, seed: int, tell: Progress) -> Indices:
    """Draws at most so many of the images, in their order; `tell` is told where that is not all."""
    if len(images) > most:
        tell(Note(f"of {len(images)} unlabelled images {most} are drawn (data.unlabelled_images)"))
    return np.sort(drawn_batch(images, most, seed, _DRAW))


def load_unlabelled_folder(
    cache: Path, path: Path | str, like: ImageSet, *, size: int | None, most: int, seed: int, progress: Progress = lambda _: None
) -> ImageSet:
    """Reads the images of a folder, however nested, to the size and channels of the data, into the cache.

    path  a folder, or `s3://BUCKET/PREFIX`
    like  the data's images: those of the folder are brought to 8 bits as they were, and grey ones to colours where they have them
    size  what the data's images are resized to, if they are
    most  of the images `most` are drawn with the seed, and no other is opened; their labels are all 0 and mean nothing
    Raises DataError for a folder that does not exist or holds no image, and for images that cannot be read, are of another size
    than the data's, or coloured where those are grey.
    """
    path = on_disk(path, cache, folder=True, wanted=may_be_image, progress=progress).expanduser().absolute()
    try:
        found, notes = images_below(path)
    except DataError as error:
        raise DataError(f"data.unlabelled: {error}; {_INSTEAD}") from error
    if not found:
        raise DataError(f"data.unlabelled: the folder {path} holds no image ({', '.join(SUFFIXES)}); {_INSTEAD}")
    for note in notes:
        progress(Note(f"{path}: {note}"))
    chosen = [found[i] for i in drawn_of(np.arange(len(found)), most, seed, progress)]
    shape = like.images.shape[1:]
    told = [size, *shape, like.how.bits, like.how.ground]
    key = hashlib.sha256(f"{told}\n".encode() + listed(chosen)).hexdigest()

    def build(folder: Path) -> Labelling:
        files = ImageFiles(path, [file.name for file in chosen], size, replace(like.how))
        images = LikeTheData(files, *shape)
        threads, apart = readers(are_small(chosen), len(chosen))
        words = write_images(images, folder, progress, threads=threads, part=images.part if apart else None)
        return Labelling(np.zeros(len(chosen), np.int64), ("unlabelled",), None, words, files.how)

    read = open_or_build(cache, path.name, "unlabelled", key, build)
    for note in read.notes:
        progress(Note(note))
    return read


@dataclass(frozen=True)
class LikeTheData:
    """Image files that have to be of the data's channels and size, as items.Images."""

    files: ImageFiles
    channels: int
    height: int
    width: int

    @property
    def what(self) -> str:
        return f"unlabelled {self.files.what}"

    @property
    def how(self) -> Depiction:
        return self.files.how

    def __len__(self) -> int:
        return len(self.files)

    def part(self, start: int, stop: int) -> "LikeTheData":
        return replace(self, files=self.files.part(start, stop))

    def name(self, index: int) -> str:
        return self.files.name(index)

    def look(self, index: int) -> Look:
        return self.files.look(index)

    def read(self, index: int) -> Image.Image:
        image = self.files.read(index)
        if image.size != (self.width, self.height):
            width, height = image.size
            raise DataError(
                f"data.unlabelled: {self.files.root / self.name(index)} is {width} x {height}, and the data's images are "
                f"{self.width} x {self.height}; give images of that size, or set data.size, where the data has it: all are then "
                "resized to it"
            )
        if self.channels == 3:
            return image.convert("RGB")
        if image.mode != "L":
            place = self.files.root / self.name(index)
            raise DataError(f"data.unlabelled: {place} has colours, and the data's images are grey; give grey ones")
        return image
