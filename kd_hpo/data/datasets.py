"""The data sets a study may name, each decoded once into a cache and opened as an ImageSet."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kd_hpo.data.cache import ImageSet, Labelling, Progress, new_images, open_or_build
from kd_hpo.data.callable_set import load_callable
from kd_hpo.data.image_folder import load_image_folder
from kd_hpo.data.torchvision_sets import load_torchvision

__all__ = ["DATASETS", "ImageSet", "Progress", "load_callable", "load_digits", "load_image_folder", "load_torchvision"]


def load_digits(cache: Path, *, progress: Progress | None = None) -> ImageSet:
    """scikit-learn's 1797 grey 8 x 8 digits, their 0..16 scaled to 0..255; no download and no test half."""

    def build(folder: Path) -> Labelling:
        from sklearn.datasets import load_digits as read

        digits = read()
        images = new_images(folder, (len(digits.images), 1, 8, 8))
        images[:, 0] = np.rint(digits.images * (255 / 16))
        if progress is not None:
            progress(len(images), len(images))
        return Labelling(digits.target, tuple(str(digit) for digit in digits.target_names), None)

    return open_or_build(cache, "digits", "digits", hashlib.sha256(b"digits").hexdigest(), build)


DATASETS: dict[str, Callable[..., ImageSet]] = {
    "digits": load_digits,
    "image_folder": load_image_folder,
    "torchvision": load_torchvision,
    "callable": load_callable,
}
