"""torchvision's data sets from files that the tests write in torchvision's own layouts: nothing is downloaded."""

import pickle
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from kd_hpo.data import torchvision_sets
from kd_hpo.data.torchvision_sets import TORCHVISION, load_torchvision
from kd_hpo.errors import DataError

random = np.random.default_rng(0)


def write_idx(file: Path, array: np.ndarray) -> None:
    """The format of MNIST: http://yann.lecun.com/exdb/mnist."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = {np.dtype("u1"): 8, np.dtype(">i4"): 12}[array.dtype]
    file.write_bytes(bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def mnist(root: Path) -> Path:
    """FashionMNIST of 6 + 4 images."""
    for half, number in (("train", 6), ("t10k", 4)):
        raw = root / "FashionMNIST/raw"
        write_idx(raw / f"{half}-images-idx3-ubyte", random.integers(0, 256, (number, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{half}-labels-idx1-ubyte", np.arange(number, dtype=np.uint8))
    return root


class TestArrays:
    def test_fashion_mnist(self, mnist: Path, tmp_path: Path) -> None:
        result = load_torchvision(tmp_path / "cache", "FashionMNIST", mnist)
        raw = mnist / "FashionMNIST/raw"
        pixels = b"".join((raw / f"{half}-images-idx3-ubyte").read_bytes()[16:] for half in ("train", "t10k"))
        assert result.images.shape == (10, 1, 28, 28)
        assert result.images.tobytes() == pixels
        np.testing.assert_array_equal(result.labels, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3])
        assert (result.name, result.test_start, result.classes[1], len(result.classes)) == ("FashionMNIST", 6, "Trouser", 10)

    @pytest.mark.parametrize("name", ["EMNIST", "QMNIST"])
    def test_relatives_of_mnist(self, root: Path, tmp_path: Path, name: str) -> None:
        files = {
            "EMNIST": ("emnist-balanced-{}-images-idx3-ubyte", "emnist-balanced-{}-labels-idx1-ubyte"),
            "QMNIST": ("qmnist-{}-images-idx3-ubyte", "qmnist-{}-labels-idx2-int"),
        }
        pixels = random.integers(0, 256, (5, 28, 28), dtype=np.uint8)
        for half, part in (("train", slice(0, 3)), ("test", slice(3, 5))):
            labels = np.array([4, 0, 2, 1, 9], np.uint8)[part]
            images_file, labels_file = (root / name / "raw" / file.format(half) for file in files[name])
            write_idx(images_file, pixels[part])
            write_idx(labels_file, labels if name == "EMNIST" else np.tile(labels[:, None], 8).astype(">i4"))
        result = load_torchvision(tmp_path / "cache", name, root)
        np.testing.assert_array_equal(result.images[:, 0], pixels)
        np.testing.assert_array_equal(result.labels, [4, 0, 2, 1, 9])
        assert (result.test_start, len(result.classes)) == (3, {"EMNIST": 47, "QMNIST": 10}[name])

    def test_cifar(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
        planes = random.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)  # red, green, blue
        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            (folder / name).write_bytes(pickle.dumps({"data": planes[index].reshape(1, -1), "labels": [index % 2]}))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}))
        result = load_torchvision(tmp_path / "cache", "CIFAR10", root)
        np.testing.assert_array_equal(result.images, planes)
        np.testing.assert_array_equal(result.labels, [0, 1, 0, 1, 0, 1])
        assert (result.classes, result.test_start) == (("plane", "car"), 5)

    def test_svhn_without_class_names(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torchvision.datasets.svhn, "check_integrity", lambda *_: True)
        pixels = random.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
        root.mkdir()
        for half, part, labels in (("train", slice(0, 3), [2, 10, 1]), ("test", slice(3, 5), [2, 10])):  # 10 stands for 0
            columns = np.array(labels, np.uint8)[:, None]
            savemat(root / f"{half}_32x32.mat", {"X": pixels[part].transpose(1, 2, 3, 0), "y": columns})
        result = load_torchvision(tmp_path / "cache", "SVHN", root)
        np.testing.assert_array_equal(result.images, pixels.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(result.labels, [2, 0, 1, 2, 0])
        assert (result.classes, result.test_start) == (("0", "1", "2"), 3)

    def test_size_resizes_arrays_too(self, mnist: Path, tmp_path: Path) -> None:
        plain, small = (load_torchvision(tmp_path / "cache", "FashionMNIST", mnist, size=size) for size in (None, 7))
        expected = [Image.fromarray(image[0]).resize((7, 7), Image.Resampling.BICUBIC) for image in plain.images]
        np.testing.assert_array_equal(small.images[:, 0], [np.asarray(image) for image in expected])
        assert load_torchvision(tmp_path / "cache", "FashionMNIST", mnist).images.shape == (10, 1, 28, 28)


Write = Callable[[str], None]
"""Writes the next image, of its own colour, at a path under the root."""


def text(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines))


def caltech101(root: Path, image: Write) -> None:
    for name in ("ant/image_0001", "ant/image_0002", "yin_yang/image_0001", "BACKGROUND_Google/image_0001"):
        image(f"caltech101/101_ObjectCategories/{name}.jpg")


def country211(root: Path, image: Write) -> None:
    for name in ("train/AD/1", "train/ZW/1", "valid/AD/2", "valid/ZW/2", "test/AD/3", "test/ZW/3"):
        image(f"country211/{name}.jpg")


def dtd(root: Path, image: Write) -> None:
    for half, names in {"train": ["a/1", "b/1"], "val": ["a/2", "b/2"], "test": ["a/3", "b/3"]}.items():
        text(root / f"dtd/dtd/labels/{half}1.txt", [f"{name}.jpg" for name in names])
        for name in names:
            image(f"dtd/dtd/images/{name}.jpg")


def eurosat(root: Path, image: Write) -> None:
    for name in ("Forest/1", "River/1", "River/2"):
        image(f"eurosat/2750/{name}.jpg")


def aircraft(root: Path, image: Write) -> None:
    folder = root / "fgvc-aircraft-2013b"
    text(folder / "data/variants.txt", ["707-320", "Yak-42"])
    text(folder / "data/images_variant_trainval.txt", ["1 707-320", "2 Yak-42"])
    text(folder / "data/images_variant_test.txt", ["3 Yak-42"])
    for name in "123":
        image(f"fgvc-aircraft-2013b/data/images/{name}.jpg")


def flowers(root: Path, image: Write) -> None:
    for index in range(1, 6):
        image(f"flowers-102/jpg/image_{index:05d}.jpg")
    savemat(root / "flowers-102/imagelabels.mat", {"labels": np.array([1, 102, 3, 4, 5])})
    savemat(root / "flowers-102/setid.mat", {"trnid": np.array([1, 2]), "valid": np.array([4, 3]), "tstid": np.array([5, 5])})


def food(root: Path, image: Write) -> None:
    text(root / "food-101/meta/train.json", ['{"apple_pie": ["apple_pie/1"], "waffles": ["waffles/1", "waffles/2"]}'])
    text(root / "food-101/meta/test.json", ['{"apple_pie": ["apple_pie/3"], "waffles": ["waffles/3"]}'])
    for name in ("apple_pie/1", "waffles/1", "waffles/2", "apple_pie/3", "waffles/3"):
        image(f"food-101/images/{name}.jpg")


def gtsrb(root: Path, image: Write) -> None:
    for name in ("Training/00000/1", "Training/00001/1", "Final_Test/Images/00000", "Final_Test/Images/00001"):
        image(f"gtsrb/GTSRB/{name}.ppm")
    text(root / "gtsrb/GT-final_test.csv", ["Filename;Width;ClassId", "00000.ppm;8;1", "00001.ppm;8;0"])


def imagenette(root: Path, image: Write) -> None:
    for name in ("train/n01440764/1", "train/n03888257/1", "val/n01440764/2", "val/n03888257/2"):
        image(f"imagenette2/{name}.jpeg")


def pets(root: Path, image: Write) -> None:
    lines = {"trainval": ["great_dane_1 1 2 1", "Birman_1 2 1 1"], "test": ["great_dane_2 1 2 1", "Birman_2 2 1 1"]}
    for half, rows in lines.items():
        text(root / f"oxford-iiit-pet/annotations/{half}.txt", rows)
        for row in rows:
            image(f"oxford-iiit-pet/images/{row.split()[0]}.jpg")


def sst2(root: Path, image: Write) -> None:
    for half in ("train", "valid", "test"):
        for name in ("negative", "positive"):
            image(f"rendered-sst2/{half}/{name}/{half}.png")


def cars(root: Path, image: Write) -> None:
    kind = [("fname", "O"), ("class", "u1")]
    for half, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        (root / "stanford_cars" / file).parent.mkdir(parents=True, exist_ok=True)
        rows = np.array([("1.jpg", 2), ("2.jpg", 1)], dtype=kind)
        savemat(root / "stanford_cars" / file, {"annotations": rows})
        for name in "12":
            image(f"stanford_cars/cars_{half}/{name}.jpg")
    savemat(root / "stanford_cars/devkit/cars_meta.mat", {"class_names": np.array(["Acura", "smart fortwo"], dtype=object)})


# In each: the order in which its images were written, their labels, where test starts, the first and the last class.
FILES: dict[str, tuple[Callable[[Path, Write], None], list[int], list[int], int | None, tuple[str, str]]] = {
    "Caltech101": (caltech101, [0, 1, 2], [0, 0, 1], None, ("0", "1")),
    "Country211": (country211, [0, 1, 2, 3, 4, 5], [0, 1] * 3, 4, ("AD", "ZW")),
    "DTD": (dtd, [0, 1, 2, 3, 4, 5], [0, 1] * 3, 4, ("a", "b")),
    "EuroSAT": (eurosat, [0, 1, 2], [0, 1, 1], None, ("Forest", "River")),
    "FGVCAircraft": (aircraft, [0, 1, 2], [0, 1, 1], 2, ("707-320", "Yak-42")),
    "Flowers102": (flowers, [0, 1, 3, 2, 4, 4], [0, 101, 3, 2, 4, 4], 4, ("pink primrose", "blackberry lily")),
    "Food101": (food, [0, 1, 2, 3, 4], [0, 1, 1, 0, 1], 3, ("apple_pie", "waffles")),
    "GTSRB": (gtsrb, [0, 1, 2, 3], [0, 1, 1, 0], 2, ("0", "1")),
    "Imagenette": (imagenette, [0, 1, 2, 3], [0, 1, 0, 1], 2, ("tench, Tinca tinca", "parachute, chute")),
    "OxfordIIITPet": (pets, [0, 1, 2, 3], [0, 1, 0, 1], 2, ("Great Dane", "Birman")),
    "RenderedSST2": (sst2, [0, 1, 2, 3, 4, 5], [0, 1] * 3, 4, ("negative", "positive")),
    "StanfordCars": (cars, [0, 1, 2, 3], [1, 0, 1, 0], 2, ("Acura", "smart fortwo")),
}


def colour(index: int) -> np.ndarray:
    return np.array([40 * index, 255 - 40 * index, 7], np.uint8)


@pytest.fixture
def write(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes a data set of FILES; its images, PNG whatever their name says, have sizes of their own."""
    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda *_: True)
    numbers = count()

    def image(name: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        index = next(numbers)
        Image.new("RGB", (10 + index, 12), tuple(colour(index).tolist())).save(root / name, format="PNG")

    return lambda name: FILES[name][0](root, image)


class TestFiles:
    @pytest.mark.parametrize("name", FILES)
    def test_items_become_images(self, name: str, root: Path, tmp_path: Path, write: Callable[[str], None]) -> None:
        write(name)
        result = load_torchvision(tmp_path / "cache", name, root, size=8)
        _, order, labels, test_start, classes = FILES[name]
        np.testing.assert_array_equal(
            result.images, np.stack([colour(i) for i in order])[:, :, None, None].repeat(8, 2).repeat(8, 3)
        )
        np.testing.assert_array_equal(result.labels, labels)
        assert (result.name, result.test_start, result.classes[0], result.classes[-1]) == (name, test_start, *classes)

    @pytest.mark.parametrize("name", FILES)
    def test_files_that_are_there_are_not_fetched(
        self, name: str, root: Path, tmp_path: Path, write: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(name)
        monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("the network was asked"))
        assert len(load_torchvision(tmp_path / "cache", name, root, download=True, size=4).images) == len(FILES[name][1])

    def test_sizes_differ(self, root: Path, tmp_path: Path, write: Callable[[str], None]) -> None:
        write("Food101")
        with pytest.raises(
            DataError, match=r"items of Food101 in .*root differ in size: train item 1 is 11 x 12, others are 10 x 12"
        ):
            load_torchvision(tmp_path / "cache", "Food101", root)

    def test_broken_images_are_counted_and_named(self, root: Path, tmp_path: Path, write: Callable[[str], None]) -> None:
        write("Food101")
        (root / "food-101/images/waffles/1.jpg").write_text("no image")
        (root / "food-101/images/waffles/3.jpg").unlink()
        said = r"2 of 5 items of Food101 in .* cannot be read: train item 1 \(not an image .*\), test item 1 \(FileNotFoundError"
        with pytest.raises(DataError, match=said):
            load_torchvision(tmp_path / "cache", "Food101", root, size=8)

    def test_archives_may_be_deleted(self, root: Path, tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        write("EuroSAT")
        archive = root / "eurosat/2750/EuroSAT.zip"
        archive.touch()
        first = load_torchvision(tmp_path / "cache", "EuroSAT", root, size=8)
        archive.unlink()
        monkeypatch.delattr(torchvision.datasets, "EuroSAT")
        assert load_torchvision(tmp_path / "cache", "EuroSAT", root, size=8).digest == first.digest

    def test_pcam_needs_h5py(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "h5py", None)
        text(root / "pcam/camelyonpatch_level_2_split_train_x.h5", [])
        with pytest.raises(DataError, match=r"PCAM in .* cannot be opened: .*h5py.*\. Install h5py\.$"):
            load_torchvision(tmp_path / "cache", "PCAM", root)

    def test_pcam(self, root: Path, tmp_path: Path) -> None:
        h5py: ModuleType = pytest.importorskip("h5py")
        for half, level in (("train", 10), ("valid", 20), ("test", 30)):
            for name, data in (("x", np.full((2, 96, 96, 3), level, np.uint8)), ("y", np.array([0, 1]).reshape(2, 1, 1, 1))):
                file = root / f"pcam/camelyonpatch_level_2_split_{half}_{name}.h5"
                file.parent.mkdir(parents=True, exist_ok=True)
                with h5py.File(file, "w") as opened:
                    opened[name] = data
        result = load_torchvision(tmp_path / "cache", "PCAM", root, size=8)
        np.testing.assert_array_equal(result.images[:, 0, 0, 0], [10, 10, 20, 20, 30, 30])
        assert (result.labels.tolist(), result.classes, result.test_start) == ([0, 1] * 3, ("0", "1"), 4)


class TestCache:
    def test_read_once_until_its_files_change(self, mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = load_torchvision(tmp_path / "cache", "FashionMNIST", mnist)
        with monkeypatch.context() as patch:
            patch.delattr(torchvision.datasets, "FashionMNIST")
            assert load_torchvision(tmp_path / "cache", "FashionMNIST", mnist).digest == first.digest
        write_idx(mnist / "FashionMNIST/raw/t10k-labels-idx1-ubyte", np.arange(4, dtype=np.uint8)[::-1])
        np.testing.assert_array_equal(load_torchvision(tmp_path / "cache", "FashionMNIST", mnist).labels[6:], [3, 2, 1, 0])


class TestErrors:
    @pytest.mark.parametrize("name", TORCHVISION)
    def test_not_downloaded(self, tmp_path: Path, root: Path, name: str) -> None:
        with pytest.raises(DataError, match=rf"{name} is not in {root}. Set `download: true` .* or `root`"):
            load_torchvision(tmp_path / "cache", name, root)
        assert hasattr(torchvision.datasets, name)
        assert not root.exists()

    def test_what_is_only_packed_is_told(self, tmp_path: Path, root: Path) -> None:
        (root / "FashionMNIST/raw").mkdir(parents=True)
        (root / "FashionMNIST/raw/train-images-idx3-ubyte.gz").write_bytes(b"")
        with pytest.raises(DataError, match=r"is packed \(train-images-idx3-ubyte\.gz\)\. Unpack these"):
            load_torchvision(tmp_path / "cache", "FashionMNIST", root)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("cifar10", r"'cifar10'; did you mean CIFAR10( or .*)?\? Accepted are CIFAR10, "),
            ("CIFAR-100", r"'CIFAR-100'; did you mean CIFAR100( or .*)?\?"),
            ("Flower102", r"'Flower102'; did you mean Flowers102\? Accepted"),
            ("Places365", r"'Places365'\. Accepted are .*through a callable, .* image_folder"),
        ],
    )
    def test_unknown_name(self, tmp_path: Path, root: Path, name: str, said: str) -> None:
        with pytest.raises(DataError, match=said):
            load_torchvision(tmp_path / "cache", name, root)

    @pytest.mark.parametrize("size", [0, -1])
    def test_size_out_of_range(self, tmp_path: Path, mnist: Path, size: int) -> None:
        with pytest.raises(DataError, match=rf"size is {size}; .* from 1 up"):
            load_torchvision(tmp_path / "cache", "FashionMNIST", mnist, size=size)

    def test_foreign_files_are_not_unpickled(self, tmp_path: Path, root: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "sprung",))

        folder = root / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        for name in ("batches.meta", "test_batch", *(f"data_batch_{index}" for index in range(1, 6))):
            (folder / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(
            DataError, match=r"CIFAR10 in .* cannot be opened: .*Dataset not found or corrupted.*`download: true`"
        ):
            load_torchvision(tmp_path / "cache", "CIFAR10", root)
        assert not (tmp_path / "sprung").exists()

    def test_truncated_files(self, mnist: Path, tmp_path: Path) -> None:
        file = mnist / "FashionMNIST/raw/train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"FashionMNIST in .* cannot be opened"):
            load_torchvision(tmp_path / "cache", "FashionMNIST", mnist)

    def test_annotations_that_are_cut_off(self, root: Path, tmp_path: Path, write: Callable[[str], None]) -> None:
        write("Food101")
        (root / "food-101/meta/test.json").write_text('{"apple_pie": [')
        with pytest.raises(DataError, match=r"Food101 in .* cannot be opened: JSONDecodeError: .*`download: true`"):
            load_torchvision(tmp_path / "cache", "Food101", root, size=8)

    def test_failing_download(self, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(*_: Any, **__: Any) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr(torchvision.datasets, "SVHN", offline)
        with pytest.raises(DataError, match=r"cannot be opened: OSError: no route to host. Check the network") as caught:
            load_torchvision(tmp_path / "cache", "SVHN", root, download=True)
        assert "\n" not in str(caught.value)

    def test_what_is_missing_is_fetched_once(self, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fetched: list[str] = []

        def fetch(root: str, split: str, download: bool = False) -> list[tuple[Image.Image, int]]:
            file = Path(root, f"{split}_32x32.mat")
            if download:
                fetched.append(split)
                file.parent.mkdir(exist_ok=True)
                file.touch()
            if not file.exists():
                raise RuntimeError("not found")
            return [(Image.new("L", (4, 4), 9), 0), (Image.new("L", (4, 4), 90), 1)]

        monkeypatch.setattr(torchvision.datasets, "SVHN", fetch)
        for _ in range(2):
            assert len(load_torchvision(tmp_path / "cache", "SVHN", root, download=True).images) == 4
        assert fetched == ["train", "test"]

    def test_cars_cannot_be_fetched(self, tmp_path: Path, root: Path) -> None:
        with pytest.raises(DataError, match=r"StanfordCars .*cannot be downloaded anymore.*set `root` to a complete copy"):
            load_torchvision(tmp_path / "cache", "StanfordCars", root, download=True)

    def test_halves_of_other_classes(self, root: Path, tmp_path: Path, write: Callable[[str], None]) -> None:
        write("Country211")
        (root / "country211/test/ZW").rename(root / "country211/test/YE")
        with pytest.raises(DataError, match=r"same `classes` in the same order, and YE, ZW are only in one"):
            load_torchvision(tmp_path / "cache", "Country211", root, size=8)

    def test_files_that_cannot_be_listed(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = root / "eurosat/2750"
        folder.mkdir(parents=True)
        (folder / "link.jpg").symlink_to(tmp_path / "gone")
        with pytest.raises(DataError, match=r"files in .* cannot be listed: .*link\.jpg.*permissions and links"):
            load_torchvision(tmp_path / "cache", "EuroSAT", root)


def test_every_source_is_named_once_and_tested() -> None:
    arrays = {"CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "PCAM", "QMNIST", "STL10", "SVHN", "USPS"}
    assert set(torchvision_sets.TORCHVISION) == arrays | set(FILES)
