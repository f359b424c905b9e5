"""The data sets a study may name, each decoded once into a cache and opened as an ImageSet."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_hpo.data.cache import ImageSet, Labelling, Progress, new_images, open_or_build
from kd_hpo.data.callable_set import load_callable
from kd_hpo.data.image_folder import load_image_folder
from kd_hpo.data.torchvision_sets import load_torchvision
from kd_hpo.errors import Note

__all__ = [
    "DATASETS",
    "ImageSet",
    "Progress",
    "load_callable",
    "load_digits",
    "load_image_folder",
    "load_torchvision",
    "read_data",
]


def load_digits(cache: Path, *, progress: Progress = lambda _: None) -> ImageSet:
    """The 1797 grey 8 x 8 digits of scikit-learn, their 0..16 scaled to 0..255; no download and no test half."""

    def build(folder: Path) -> Labelling:
        from sklearn.datasets import load_digits as read

        digits = read()
        images = new_images(folder, (len(digits.images), 1, 8, 8))
        images[:, 0] = np.rint(digits.images * (255 / 16))
        return Labelling(digits.target, tuple(str(digit) for digit in digits.target_names), None)

    return open_or_build(cache, "digits", "digits", hashlib.sha256(b"digits").hexdigest(), build)


DATASETS: dict[str, Callable[..., ImageSet]] = {
    "digits": load_digits,
    "image_folder": load_image_folder,
    "torchvision": load_torchvision,
    "callable": load_callable,
}
"""The reader of each kind of data: called with the cache, the fields of its settings by name, and `progress`."""


def read_data(kind: str, fields: Mapping[str, Any], cache: Path, progress: Progress = lambda _: None) -> ImageSet:
    """Reads the images of the kind of data whose settings have these fields. Raises DataError for what cannot be read.

    `progress` is told in words what is being done.
    """
    images = DATASETS[kind](cache, **{name: value for name, value in fields.items() if name != "kind"}, progress=progress)
    for note in images.notes:
        progress(Note(note))
    return images
