"""The data sets a study may name, each decoded once into a cache and opened as an ImageSet."""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kd_hpo.data.cache import ImageSet, Labelling, Progress, new_images, open_or_build
from kd_hpo.data.image_folder import load_image_folder
from kd_hpo.errors import DataError

__all__ = ["DATASETS", "TORCHVISION", "ImageSet", "Progress", "load_digits", "load_image_folder", "load_torchvision"]


def load_digits(cache: Path, *, progress: Progress | None = None) -> ImageSet:
    """scikit-learn's 1797 grey 8 x 8 digits, their 0..16 scaled to 0..255; no download and no test half."""

    def build(folder: Path) -> Labelling:
        from sklearn.datasets import load_digits as read

        digits = read()
        images = new_images(folder, (len(digits.images), 1, 8, 8))
        images[:, 0] = np.rint(digits.images * (255 / 16))
        _report(progress, len(images), len(images))
        return Labelling(digits.target, tuple(str(digit) for digit in digits.target_names), None)

    return open_or_build(cache, "digits", "digits", hashlib.sha256(b"digits").hexdigest(), build)


class Source(NamedTuple):
    """How a torchvision data set is opened and where it lies under its root."""

    files: str
    """A glob under root: what torchvision downloads or unpacks, which keys the cache."""
    train: dict[str, Any]
    test: dict[str, Any]


_BY_FLAG = ({"train": True}, {"train": False})
_BY_NAME = ({"split": "train"}, {"split": "test"})
TORCHVISION: dict[str, Source] = {
    "CIFAR10": Source("cifar-10-batches-py/*", *_BY_FLAG),
    "CIFAR100": Source("cifar-100-python/*", *_BY_FLAG),
    "FashionMNIST": Source("FashionMNIST/raw/*", *_BY_FLAG),
    "KMNIST": Source("KMNIST/raw/*", *_BY_FLAG),
    "MNIST": Source("MNIST/raw/*", *_BY_FLAG),
    "STL10": Source("stl10_binary/*", *_BY_NAME),
    "SVHN": Source("*_32x32.mat", *_BY_NAME),
    "USPS": Source("usps*", *_BY_FLAG),
}


def load_torchvision(cache: Path, name: str, root: Path, download: bool = False, *, progress: Progress | None = None) -> ImageSet:
    """A torchvision data set of decoded arrays, train half first, then its test half.

    name  a key of TORCHVISION; other data sets can be unpacked and read by load_image_folder
    root  where torchvision keeps its files; `download` fetches them there once
    Raises DataError if the name is unknown, or the files are missing, damaged or cannot be fetched.
    """
    if name not in TORCHVISION:
        raise DataError(
            f"the torchvision data set is {name!r}; accepted are {', '.join(TORCHVISION)}. "
            "Unpack any other into a folder a class and use image_folder."
        )
    source, root = TORCHVISION[name], root.expanduser().absolute()
    if download and not _listing(root, source.files):
        _open(name, root, True, source.train)
        _open(name, root, True, source.test)
    listing = _listing(root, source.files)
    if not listing:
        raise DataError(f"{name} is not in {root}. Set `download: true` to fetch it, or `root` to the folder that holds it.")

    def build(folder: Path) -> Labelling:
        halves = [_open(name, root, download, which) for which in (source.train, source.test)]
        pixels = [_channels_first(half.data) for half in halves]
        count, test_start = sum(map(len, pixels)), len(pixels[0])
        images = new_images(folder, (count, *pixels[0].shape[1:]))
        np.concatenate(pixels, out=images)
        _report(progress, count, count)
        labels = np.concatenate([np.asarray(_labels(half), np.int64) for half in halves])
        classes = getattr(halves[0], "classes", None) or [str(label) for label in range(int(labels.max()) + 1)]
        return Labelling(labels, tuple(classes), test_start)

    key = hashlib.sha256(f"{name}\n{listing}".encode()).hexdigest()
    return open_or_build(cache, name, name, key, build)


def _listing(root: Path, pattern: str) -> str:
    files = sorted(file for file in root.glob(pattern) if file.is_file())
    return "".join(f"{file.relative_to(root)}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}\n" for file in files)


def _open(name: str, root: Path, download: bool, which: dict[str, Any]) -> Any:
    factory = getattr(importlib.import_module("torchvision.datasets"), name)
    try:
        return factory(str(root), download=download, **which)
    except (RuntimeError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "Check the network and the disk" if download else "Set `download: true` to fetch it again"
        raise DataError(f"{name} in {root} cannot be opened: {reason}. {advice}, or set `root` to a complete copy.") from error


def _channels_first(data: Any) -> npt.NDArray[np.uint8]:
    """(N, H, W), (N, H, W, 3) or (N, 3, H, W) -> (N, C, H, W)."""
    pixels = np.asarray(data, np.uint8)
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels if pixels.shape[1] == 3 else pixels.transpose(0, 3, 1, 2)


def _labels(half: Any) -> Any:
    return half.targets if hasattr(half, "targets") else half.labels


def _report(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


DATASETS: dict[str, Callable[..., ImageSet]] = {
    "digits": load_digits,
    "image_folder": load_image_folder,
    "torchvision": load_torchvision,
}
