"""Reads torchvision's data sets by name into the cache."""

import difflib
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kd_hpo.data.cache import ImageSet, Labelling, Progress, open_or_build
from kd_hpo.data.image_folder import cores
from kd_hpo.data.images import few, reason, write_images
from kd_hpo.data.items import DataSet, Items, class_names
from kd_hpo.data.pixels import require_size
from kd_hpo.errors import DataError

Arguments = Mapping[str, Any]


class Source(NamedTuple):
    """How torchvision opens a data set, and where it lies under its root."""

    files: str
    """A folder, or a glob of files: what torchvision unpacks, which keys the cache."""
    train: tuple[Arguments, ...]
    """Parts that make the train half one after the other."""
    test: tuple[Arguments, ...]
    """Likewise; empty where torchvision does not halve the data set."""
    packages: tuple[str, ...] = ()
    """What else it needs, which kd_hpo does not."""


def _splits(*train: str, test: str = "test") -> tuple[tuple[Arguments, ...], tuple[Arguments, ...]]:
    return tuple({"split": name} for name in train), ({"split": test},)


_FLAG = ({"train": True},), ({"train": False},)
_WHOLE: tuple[tuple[Arguments, ...], tuple[Arguments, ...]] = ({},), ()

TORCHVISION: dict[str, Source] = {
    "CIFAR10": Source("cifar-10-batches-py", *_FLAG),
    "CIFAR100": Source("cifar-100-python", *_FLAG),
    "Caltech101": Source("caltech101/101_ObjectCategories", *_WHOLE),
    "Country211": Source("country211", *_splits("train", "valid")),
    "DTD": Source("dtd/dtd", *_splits("train", "val")),
    "EMNIST": Source("EMNIST/raw", ({"split": "balanced", "train": True},), ({"split": "balanced", "train": False},)),
    "EuroSAT": Source("eurosat/2750", *_WHOLE),
    "FGVCAircraft": Source("fgvc-aircraft-2013b", *_splits("trainval")),
    "FashionMNIST": Source("FashionMNIST/raw", *_FLAG),
    "Flowers102": Source("flowers-102", *_splits("train", "val")),
    "Food101": Source("food-101", *_splits("train")),
    "GTSRB": Source("gtsrb", *_splits("train")),
    "Imagenette": Source("imagenette2", *_splits("train", test="val")),
    "KMNIST": Source("KMNIST/raw", *_FLAG),
    "MNIST": Source("MNIST/raw", *_FLAG),
    "OxfordIIITPet": Source("oxford-iiit-pet", *_splits("trainval")),
    "PCAM": Source("pcam", *_splits("train", "val"), packages=("h5py",)),
    "QMNIST": Source("QMNIST/raw", *_FLAG),
    "RenderedSST2": Source("rendered-sst2", *_splits("train", "val")),
    "STL10": Source("stl10_binary", *_splits("train")),
    "SVHN": Source("*_32x32.mat", *_splits("train")),
    "StanfordCars": Source("stanford_cars", *_splits("train")),
    "USPS": Source("usps*", *_FLAG),
}
"""torchvision's validation splits are part of the train half, out of which kd_hpo cuts its own outer and val splits.

EMNIST is its balanced split. Another one, and all that is not here, can be read by load_callable.
"""

ARCHIVES = (".gz", ".tar", ".tgz", ".zip")  # they may be deleted once they are unpacked


def load_torchvision(
    cache: Path, name: str, root: Path, download: bool = False, size: int | None = None, *, progress: Progress = lambda _: None
) -> ImageSet:
    """A torchvision data set, train half first, then its test half where it has one.

    name  a key of TORCHVISION
    root  where torchvision keeps its files; `download` fetches them there once
    size  as in load_image_folder
    The cache is keyed by name, size, and the names, sizes and modification times of the files.
    Raises DataError if the name is unknown, for files that are missing, damaged or cannot be fetched, and for images of
    different sizes without `size`.
    """
    require_size(size)
    source, root = _source(name), root.expanduser().absolute()
    if download and not _listing(root, source.files):
        for arguments in source.train + source.test:
            _open(name, root, True, arguments)
    listing = _listing(root, source.files)
    if not listing:
        if packed := [path for top in sorted(root.glob(source.files)) for path, _ in _walk(top)]:
            told = few(sorted(Path(path).name for path in packed), 2)
            raise DataError(f"{name} in {root} is packed ({told}). Unpack these files where they are, or set `download: true`.")
        raise DataError(f"{name} is not in {root}. Set `download: true` to fetch it, or `root` to the folder that holds it.")

    def build(folder: Path) -> Labelling:
        train, test = ([_open(name, root, download, arguments) for arguments in half] for half in (source.train, source.test))
        halves, where = [_joined(half) for half in (train, test) if half], f"{name} in {root}"
        items = Items(where, halves, class_names(where, train + test), size)
        return items.labelling(write_images(items, folder, progress, threads=min(8, cores())))

    key = hashlib.sha256(f"{name}\nsize {size}\n".encode() + listing).hexdigest()
    return open_or_build(cache, name, name, key, build)


def _source(name: str) -> Source:
    if name in TORCHVISION:
        return TORCHVISION[name]
    names = {known.lower(): known for known in TORCHVISION}
    near = " or ".join(names[match] for match in difflib.get_close_matches(name.lower(), names))
    raise DataError(
        f"the torchvision data set is {name!r}{f'; did you mean {near}?' if near else '.'} Accepted are "
        f"{', '.join(TORCHVISION)}. Read any other through a callable, or unpack it into a folder a class for image_folder."
    )


def _listing(root: Path, files: str) -> bytes:
    """Empty where nothing is there."""
    try:
        found = sorted((path, stat) for top in root.glob(files) for path, stat in _walk(top) if not path.endswith(ARCHIVES))
    except OSError as error:
        raise DataError(f"the files in {root} cannot be listed: {error}. Check its permissions and links.") from error
    within = len(f"{root}{os.sep}")
    return os.fsencode("".join(f"{path[within:]}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for path, stat in found))


def _walk(path: Path | os.DirEntry[str]) -> Iterator[tuple[str, os.stat_result]]:
    if path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                yield from _walk(entry)
    else:
        yield os.fspath(path), path.stat()


def _open(name: str, root: Path, download: bool, arguments: Arguments) -> DataSet:
    """From the files that are there, or else fetched. Raises DataError with what torchvision says."""
    try:
        for package in TORCHVISION[name].packages:
            importlib.import_module(package)
        open_it: Callable[..., DataSet] = getattr(importlib.import_module("torchvision.datasets"), name)
        try:
            return open_it(str(root), **arguments)
        except Exception:
            if not download:
                raise
            return open_it(str(root), download=True, **arguments)
    except Exception as error:  # for damaged files torchvision raises nearly any type
        if isinstance(error, ModuleNotFoundError):
            advice = f"Install {error.name}"
        else:
            advice = "Check the network and the disk" if download else "Set `download: true` to fetch it again"
            advice += ", or set `root` to a complete copy"
        raise DataError(f"{name} in {root} cannot be opened: {reason(error).rstrip('.')}. {advice}.") from error


def _joined(parts: list[DataSet]) -> DataSet:
    from torch.utils.data import ConcatDataset

    return parts[0] if len(parts) == 1 else ConcatDataset(parts)  # type: ignore[arg-type]
