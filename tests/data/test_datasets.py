"""Digits, and torchvision's data sets from files that the tests write: nothing is downloaded."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import sklearn.datasets
import torchvision.datasets

from kd_hpo.data.datasets import DATASETS, TORCHVISION, load_digits, load_torchvision
from kd_hpo.errors import DataError

random = np.random.default_rng(0)


def test_names() -> None:
    assert set(DATASETS) == {"digits", "image_folder", "torchvision"}


def test_digits(tmp_path: Path) -> None:
    digits, source = load_digits(tmp_path), sklearn.datasets.load_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert (digits.images.dtype, digits.images.min(), digits.images.max()) == (np.uint8, 0, 255)
    np.testing.assert_allclose(digits.images[:, 0] / 255, source.images / 16, atol=0.5 / 255 + 1e-12)
    np.testing.assert_array_equal(digits.labels, source.target)
    assert (digits.name, digits.classes, digits.test_start) == ("digits", tuple("0123456789"), None)


def test_digest_of_digits_is_the_same_everywhere(tmp_path: Path) -> None:
    """Recorded once: a change here gives every recorded data set another name."""
    assert load_digits(tmp_path).digest == "341ad18e1f965a879d015cac3b7e7cb07d464e45fc077614312fd14ebc951ae9"


def test_digits_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    first = load_digits(tmp_path, progress=lambda done, total: seen.append((done, total)))
    monkeypatch.delattr(sklearn.datasets, "load_digits")
    np.testing.assert_array_equal(load_digits(tmp_path).images, first.images)
    assert seen == [(1797, 1797)]


def write_idx(file: Path, array: np.ndarray) -> None:
    """The format of MNIST: http://yann.lecun.com/exdb/mnist."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """FashionMNIST of 6 + 4 images."""
    for half, count in (("train", 6), ("t10k", 4)):
        raw = tmp_path / "root/FashionMNIST/raw"
        write_idx(raw / f"{half}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{half}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    return tmp_path / "root"


def test_fashion_mnist(mnist: Path, tmp_path: Path) -> None:
    result = load_torchvision(tmp_path / "cache", "FashionMNIST", mnist)
    raw = mnist / "FashionMNIST/raw"
    pixels = b"".join((raw / f"{half}-images-idx3-ubyte").read_bytes()[16:] for half in ("train", "t10k"))
    assert result.images.shape == (10, 1, 28, 28)
    assert result.images.tobytes() == pixels
    np.testing.assert_array_equal(result.labels, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3])
    assert (result.name, result.test_start, result.classes[1], len(result.classes)) == ("FashionMNIST", 6, "Trouser", 10)


def test_torchvision_is_read_once_until_its_files_change(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_torchvision(tmp_path / "cache", "FashionMNIST", mnist)
    with monkeypatch.context() as patch:
        patch.delattr(torchvision.datasets, "FashionMNIST")
        assert load_torchvision(tmp_path / "cache", "FashionMNIST", mnist).digest == first.digest
    write_idx(mnist / "FashionMNIST/raw/t10k-labels-idx1-ubyte", np.arange(4, dtype=np.uint8)[::-1])
    np.testing.assert_array_equal(load_torchvision(tmp_path / "cache", "FashionMNIST", mnist).labels[6:], [3, 2, 1, 0])


class Fake:
    """Stands in for a torchvision class: `data`, and what else that class has."""

    data: ClassVar[dict[bool, np.ndarray]]
    extra: ClassVar[dict[str, Any]] = {}
    file: ClassVar[str]

    def __new__(cls, root: str, download: bool, train: bool = True, split: str = "train") -> Any:
        train = train and split == "train"
        file = Path(root, cls.file)
        if download and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        if not file.exists():
            raise RuntimeError("Dataset not found or corrupted.\nYou can use download=True to download it")
        data = cls.data[train]
        return SimpleNamespace(data=data, **{name: value[: len(data)] for name, value in cls.extra.items()})


def test_channels_last_with_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cifar(Fake):
        file = "cifar-10-batches-py/data_batch_1"
        data: ClassVar = {half: random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for half, n in ((True, 3), (False, 2))}
        extra: ClassVar = {"targets": [1, 0, 1], "classes": ["plane", "car"]}

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Cifar)
    result = load_torchvision(tmp_path / "cache", "CIFAR10", tmp_path / "root", download=True)
    np.testing.assert_array_equal(result.images, np.concatenate([Cifar.data[True], Cifar.data[False]]).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(result.labels, [1, 0, 1, 1, 0])
    assert (result.classes, result.test_start) == (("plane", "car"), 3)


def test_channels_first_without_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Svhn(Fake):
        file = "train_32x32.mat"
        data: ClassVar = {half: random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for half, n in ((True, 3), (False, 2))}
        extra: ClassVar = {"labels": np.array([2, 0, 1])}

    monkeypatch.setattr(torchvision.datasets, "SVHN", Svhn)
    result = load_torchvision(tmp_path / "cache", "SVHN", tmp_path / "root", download=True)
    np.testing.assert_array_equal(result.images, np.concatenate([Svhn.data[True], Svhn.data[False]]))
    np.testing.assert_array_equal(result.labels, [2, 0, 1, 2, 0])
    assert (result.classes, result.test_start) == (("0", "1", "2"), 3)
    monkeypatch.delattr(torchvision.datasets, "SVHN")
    assert load_torchvision(tmp_path / "cache", "SVHN", tmp_path / "root", download=True).digest == result.digest


@pytest.mark.parametrize("name", TORCHVISION)
def test_not_downloaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} is not in {tmp_path}/root. Set `download: true` .* or `root`"):
        load_torchvision(tmp_path / "cache", name, tmp_path / "root")
    assert hasattr(torchvision.datasets, name)


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'ImageNet'; accepted are CIFAR10, .*use image_folder"):
        load_torchvision(tmp_path / "cache", "ImageNet", tmp_path / "root")


def test_foreign_files_are_not_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    folder = tmp_path / "root/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("batches.meta", "test_batch", *(f"data_batch_{index}" for index in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match=r"CIFAR10 in .* cannot be opened: Dataset not found or corrupted.*`download: true`"):
        load_torchvision(tmp_path / "cache", "CIFAR10", tmp_path / "root")
    assert not (tmp_path / "sprung").exists()


def test_truncated_files(mnist: Path, tmp_path: Path) -> None:
    file = mnist / "FashionMNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"FashionMNIST in .* cannot be opened"):
        load_torchvision(tmp_path / "cache", "FashionMNIST", mnist)


def test_failing_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "SVHN", offline)
    with pytest.raises(DataError, match=r"cannot be opened: no route to host. Check the network"):
        load_torchvision(tmp_path / "cache", "SVHN", tmp_path / "root", download=True)
