"""Data sets of the user's own, from modules that the tests write."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset

from kd_hpo.data import images as items
from kd_hpo.data.callable_set import load_callable
from kd_hpo.data.content import LABELS
from kd_hpo.data.datasets import ImageSet
from kd_hpo.errors import ConfigError, DataError

RGB = np.random.default_rng(0).integers(0, 256, (200, 6, 8, 3), dtype=np.uint8)  # H = 6, W = 8


class Module:
    """A module `mine` whose callable `make` gives what `given` says; `source` is its text."""

    def __init__(self, folder: Path) -> None:
        self.file, self.given, self.calls = folder / "mine.py", None, 0
        self.write("# first version")

    def write(self, source: str) -> None:
        """Also forgets what was imported, as a new process would."""
        self.file.write_text(f"test = None\n\ndef make(**arguments):\n    return test.give(**arguments)\n\n{dedent(source)}\n")
        sys.modules.pop("mine", None)
        module = __import__("mine")
        module.test = self

    def give(self, **arguments: Any) -> Any:
        self.calls += 1
        return self.given(**arguments) if callable(self.given) else self.given


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Module(tmp_path)
    sys.modules.pop("mine", None)


@pytest.fixture
def load(tmp_path: Path, mine: Module) -> Callable[..., ImageSet]:
    def load(given: Any = None, size: int | None = None, **arguments: Any) -> ImageSet:
        mine.given = given if given is not None else mine.given
        return load_callable(tmp_path / "cache", "mine:make", arguments, size)

    return load


class Listed:
    """A map-style data set without torch; an item that is an exception is raised."""

    def __init__(self, items: list[Any], classes: Any = None) -> None:
        self.items = items
        self.reads: list[int] = []
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def listed(start: int, stop: int, classes: Any = None) -> Listed:
    return Listed([(RGB[index], index % 3) for index in range(start, stop)], classes)


class TestContents:
    def test_one_half(self, load: Any) -> None:
        result = load(listed(0, 7))
        np.testing.assert_array_equal(result.images, RGB[:7].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(result.labels, [0, 1, 2, 0, 1, 2, 0])
        assert (result.name, result.classes, result.test_start) == ("mine:make", ("0", "1", "2"), None)

    def test_train_and_test(self, load: Any) -> None:
        result = load((listed(0, 5), listed(10, 13)))
        np.testing.assert_array_equal(result.images, RGB[[0, 1, 2, 3, 4, 10, 11, 12]].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(result.labels, [0, 1, 2, 0, 1, 1, 2, 0])
        assert result.test_start == 5

    def test_torch_data_sets(self, load: Any) -> None:
        whole = TensorDataset(torch.from_numpy(RGB).permute(0, 3, 1, 2).float() / 255, torch.arange(200) % 4)
        result = load((Subset(whole, [5, 3]), Subset(whole, [4])))
        np.testing.assert_array_equal(result.images, RGB[[5, 3, 4]].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(result.labels, [1, 2, 0])  # there is no label 2, and 3 is the third
        assert result.classes == ("0", "1", "3")

    def test_every_kind_of_image_and_label(self, load: Any) -> None:
        image = torch.from_numpy(RGB[0])
        kinds = [
            (RGB[0], 0),
            [RGB[0].transpose(2, 0, 1), 1],
            (Image.fromarray(RGB[0]), np.int64(2)),
            (image, np.array(3)),
            (image.permute(2, 0, 1).double() / 255, torch.tensor(4)),
            (image, True),
        ]
        result = load(kinds)
        for actual in result.images:
            np.testing.assert_array_equal(actual, RGB[0].transpose(2, 0, 1))
        np.testing.assert_array_equal(result.labels, [0, 1, 2, 3, 4, 1])

    def test_grey_stays_grey_and_one_colour_image_makes_all_rgb(self, load: Any) -> None:
        grey = [(RGB[i, ..., 0], i) for i in range(3)]
        np.testing.assert_array_equal(load(grey).images[:, 0], RGB[:3, ..., 0])
        mixed = load([*grey, (RGB[3], 0)])
        np.testing.assert_array_equal(mixed.images[:3], RGB[:3, None, :, :, 0].repeat(3, 1))
        np.testing.assert_array_equal(mixed.images[3], RGB[3].transpose(2, 0, 1))
        np.testing.assert_array_equal(mixed.labels, [0, 1, 2, 0])

    def test_size(self, load: Any) -> None:
        wide = np.zeros((20, 60, 3), np.uint8)
        wide[:, 20:40] = (10, 200, 30)  # the centre square
        result = load([(wide, 0), (np.full((50, 40), 77, np.uint8), 1)], size=10)
        assert result.images.shape == (2, 3, 10, 10)
        assert (result.images[0, :, 2:8, 2:8] == np.uint8([10, 200, 30])[:, None, None]).all()
        assert (result.images[1] == 77).all()

    def test_class_names(self, load: Any) -> None:
        names = ["ant", ("bee", "wasp"), "cow", "doe"]
        result = load((listed(0, 3, names), listed(3, 6)))
        assert result.classes == ("ant", "bee, wasp", "cow", "doe")

    def test_classes_of_one_name_are_told_apart(self, load: Any) -> None:
        assert load(listed(0, 3, ["crane", "ant", "crane"])).classes == ("crane (0)", "ant", "crane (2)")

    def test_arguments(self, load: Any) -> None:
        assert len(load(lambda first, last: listed(first, last), first=2, last=6).images) == 4

    def test_torchvision_by_its_class(self, tmp_path: Path) -> None:
        arguments = {"size": 12, "image_size": [3, 4, 4], "num_classes": 3}
        result = load_callable(tmp_path, "torchvision.datasets:FakeData", arguments)
        assert (result.images.shape, result.images.std() > 1) == ((12, 3, 4, 4), True)

    def test_progress_ends_at_the_total(self, mine: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(items, "CHUNK", 3)
        mine.given, seen = (listed(0, 3), listed(3, 7)), []
        load_callable(tmp_path / "cache", "mine:make", {}, progress=seen.append)
        assert seen == [f"decoding images: {done} of 7" for done in (3, 6, 7)]


class TestLabels:
    @pytest.mark.parametrize("labels", [(1, 2, 10), (0, 3, 7), (1000003, 1000004, 2**62)])
    def test_labels_that_are_no_count_are_numbered_and_told(self, load: Any, labels: tuple[int, ...]) -> None:
        found = load(Listed([(RGB[index], labels[index % 3]) for index in range(9)]))
        assert found.labels.tolist() == [0, 1, 2] * 3
        assert found.classes == tuple(map(str, labels))
        (note,) = found.notes
        assert f"3 labels of mine:make are numbered in their order: {labels[0]} -> 0, {labels[1]} -> 1" in note

    def test_labels_that_count_from_0_are_left_alone(self, load: Any) -> None:
        assert load(listed(0, 9)).notes == ()
        named = load(Listed([(RGB[0], 0), (RGB[1], 2)], ["a", "b", "c"]))
        assert (named.labels.tolist(), named.classes, named.notes) == ([0, 2], ("a", "b", "c"), ())


class TestCache:
    @pytest.mark.parametrize("name", [*LABELS, "samples", None])
    def test_a_second_load_reads_64_items_of_each_half_that_holds_its_labels(
        self, load: Any, mine: Module, name: str | None
    ) -> None:
        def halves() -> Any:
            made = listed(0, 150), listed(150, 180)
            for half in made:
                labels = [label for _, label in half.items]
                if name is not None:
                    setattr(half, name, [("a.png", label) for label in labels] if name == "samples" else labels)
            return made

        first = load(halves())
        again = load(halves())
        assert again.digest == first.digest
        train, test = (half.reads for half in mine.given)
        assert len(train) == len(set(train)) == (64 if name else 150)
        assert {0, 149} <= set(train) and max(np.diff(sorted(train))) <= 3
        assert sorted(test) == list(range(30))

    @pytest.mark.parametrize("where", [None, "held", "subset"])
    @pytest.mark.parametrize("wrong", [1, 77, 148])
    def test_one_corrected_label_is_seen(self, load: Any, tmp_path: Path, wrong: int, where: str | None) -> None:
        def labelled(labels: list[int]) -> Any:
            made = Listed([(RGB[index], label) for index, label in enumerate(labels)])
            if where is not None:
                made.targets = np.array(labels)
            return Subset(made, range(150)) if where == "subset" else made  # type: ignore[arg-type]

        labels = [index % 3 for index in range(150)]
        load(labelled(labels))
        labels[wrong] = (labels[wrong] + 1) % 3
        assert load(labelled(labels)).labels.tolist() == labels

    def test_labels_that_are_held_but_not_those_of_the_items_do_not_count(self, load: Any) -> None:
        labels = [index % 3 for index in range(150)]
        for wrong in (False, True):
            labels[77] = (labels[77] + wrong) % 3
            made = Listed([(RGB[index], label) for index, label in enumerate(labels)])
            made.labels = [0] * 150  # a target transform makes others of them
            assert load(made).labels.tolist() == labels

    def test_one_corrected_image_is_seen_that_the_data_set_holds(self, load: Any, tmp_path: Path) -> None:
        images = RGB[:150].copy()
        for level in (0, 255):
            images[77] = level
            made = Listed([(image, index % 3) for index, image in enumerate(images)])
            made.targets, made.images = [index % 3 for index in range(150)], images
            assert (load(made).images[77] == level).all()

    def test_a_file_that_was_written_again_is_seen(self, load: Any, tmp_path: Path) -> None:
        files = [tmp_path / f"{number}.png" for number in range(150)]
        for number, file in enumerate(files):
            Image.fromarray(RGB[number]).save(file)

        def made() -> Any:
            found = Listed([(Image.open(file), index % 3) for index, file in enumerate(files)])
            found.samples = [(str(file), index % 3) for index, file in enumerate(files)]
            return found

        load(made())
        Image.fromarray(RGB[199]).save(files[77])
        assert (load(made()).images[77] == RGB[199].transpose(2, 0, 1)).all()

    @pytest.mark.parametrize("change", ["source", "arguments", "size", "data", "label", "test data", "length", "class names"])
    def test_a_change_is_read_again(self, load: Any, mine: Module, tmp_path: Path, change: str) -> None:
        def halves(**_: Any) -> Any:
            train, test = listed(0, 90), listed(90, 100)
            if change == "data":
                train.items[0] = (RGB[199], 0)
            elif change == "label":
                train.items[89] = (RGB[89], 0)
            elif change == "test data":
                test.items[9] = (RGB[199], test.items[9][1])
            elif change == "length":
                train.items.insert(45, train.items[45])
            elif change == "class names":
                train.classes = ["a", "b", "c"]
            return train, test

        load((listed(0, 90), listed(90, 100)))
        if change == "source":
            mine.write("# second version")
        load(halves, size=4 if change == "size" else None, **({"seed": 1} if change == "arguments" else {}))
        homes = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
        assert len(homes) == 2

    def test_nothing_changed(self, load: Any, mine: Module, tmp_path: Path) -> None:
        load(listed(0, 90), seed=1)
        mine.write("# first version")
        load(listed(0, 90), seed=1)
        assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1

    def test_size_has_a_cache_of_its_own(self, load: Any) -> None:
        assert load(listed(0, 5)).images.shape[2:] == (6, 8)
        assert load(size=4).images.shape[2:] == (4, 4)
        assert load().images.shape[2:] == (6, 8)


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([(RGB[0], 0)] * 3)


class TestErrors:
    @pytest.fixture
    def refused(self, load: Any, tmp_path: Path) -> Callable[..., None]:
        def refused(given: Any, said: str, **arguments: Any) -> None:
            with pytest.raises(DataError, match=said) as caught:
                load(given, **arguments)
            assert "\n" not in str(caught.value)
            assert not [path for path in tmp_path.glob("cache/*") if path.is_dir()]

        return refused

    def test_broken_items_are_counted_and_named(self, refused: Any) -> None:
        train, test = listed(0, 5), listed(5, 8)
        train.items[1], train.items[3], test.items[2] = ValueError("no such\nline"), KeyError("x"), RuntimeError()
        said = (
            r"^3 of 8 items of mine:make cannot be read: train item 1 \(ValueError: no such\), train item 3 \(KeyError: 'x'\), "
        )
        refused((train, test), said + r"test item 2 \(RuntimeError\)\. Replace or remove them")

    def test_all_items_broken(self, refused: Any) -> None:
        refused(Listed([OSError(f"disk {i}") for i in range(7)]), r"7 of 7 items .*item 0 \(OSError: disk 0\), .* and 2 more")

    def test_sizes_differ(self, refused: Any) -> None:
        sizes = Listed([(RGB[0], 0), (RGB[1][:4], 1)])
        refused(sizes, r"items of mine:make differ in size: item 1 is 8 x 4, others are 8 x 6\. Set `size`")

    @pytest.mark.parametrize("size", [0, -3])
    def test_size_out_of_range(self, refused: Any, size: int) -> None:
        refused(listed(0, 3), f"size is {size}; .* from 1 up", size=size)

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            ((torch.zeros(5, 6, 8), 0), r"^test item 1 of mine:make is an image of shape \(5, 6, 8\)"),
            ((torch.full((3, 6, 8), -1.0), 0), r"^test item 1 of mine:make .*floats from -1 to -1.*before normalisation"),
            ((RGB[0].astype(int), 0), r"^test item 1 of mine:make is an image of int64"),
            (("a.png", 0), r"^test item 1 of mine:make has a str for an image"),
            ((RGB[0], 0, 0), r"^test item 1 of mine:make is a tuple of 3; accepted are pairs \(image, label\)"),
            ({"image": RGB[0]}, r"^test item 1 of mine:make is a dict; accepted are pairs"),
            ((RGB[0], 0.5), r"^test item 1 of mine:make has the label 0\.5; accepted are whole numbers from 0 up"),
            ((RGB[0], -1), r"has the label -1; accepted"),
            ((RGB[0], "cat"), r"has the label 'cat'; accepted.* its place among `classes`"),
            ((RGB[0], torch.tensor([0, 1, 0])), r"has the label tensor\(\[0, 1, 0\]\); accepted"),
            ((RGB[0], torch.tensor(1.0)), r"has the label tensor\(1\.\); accepted"),
        ],
    )
    def test_items_that_cannot_be_used(self, refused: Any, item: Any, said: str) -> None:
        refused((listed(0, 3), Listed([(RGB[0], 0), item])), said)

    def test_an_item_that_cannot_be_used_among_many(self, refused: Any) -> None:
        many = listed(0, 200)
        many.items[1] = (torch.zeros(5, 6, 8), 0)  # not among the 64 that stand for all
        refused(many, r"^item 1 of mine:make is an image of shape \(5, 6, 8\)")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (iter([1, 2]), r"^mine:make returned a list_iterator; accepted are .*len and \[i\].*Make a list"),
            (Stream(), r"returned a Stream; accepted"),
            ({"train": [1], "test": [1]}, r"returned a dict; accepted .* a tuple of two, train and test"),
            (torch.utils.data.DataLoader([1, 2]), r"returned a DataLoader"),
            (([1], [2], [3]), r"returned a tuple of a list of 1, a list of 1, a list of 1; accepted"),
            (([1], 3), r"returned a tuple of a list of 1, a int; accepted"),
            (lambda: None, r"returned a NoneType"),
        ],
    )
    def test_no_data_set(self, refused: Any, given: Any, said: str) -> None:
        refused(given, said)

    def test_empty_halves(self, refused: Any) -> None:
        refused(Listed([]), r"^mine:make has no item\. Give")
        refused((listed(0, 3), Listed([])), r"^mine:make has no item in its test half\. Give")

    def test_one_class(self, refused: Any) -> None:
        refused([(RGB[0], 0), (RGB[1], 0)], r"items of mine:make are all of one class; .* at least two")

    def test_label_beyond_the_class_names(self, refused: Any) -> None:
        refused(Listed([(RGB[0], 0), (RGB[0], 2)], ["a", "b"]), r"^item 1 .* has the label 2, and `classes` names 2")

    def test_halves_of_other_classes(self, refused: Any) -> None:
        refused(
            (listed(0, 3, ["a", "b", "c"]), listed(3, 6, ["a", "b", "d"])),
            r"^mine:make: .*same `classes`.*, and c, d are only in one",
        )
        refused((listed(0, 3, ["a", "b", "c"]), listed(3, 6, ["a", "c", "b"])), r"their orders differ")

    def test_random_items(self, refused: Any) -> None:
        class Noisy(Listed):
            def __getitem__(self, index: int) -> Any:
                return np.random.default_rng().integers(0, 256, (6, 8), dtype=np.uint8), index

        refused(Noisy([None] * 4), r"^mine:make gave other items when it was called again\. .*random transforms .*`augment`")

    def test_random_splits(self, refused: Any) -> None:
        def split() -> Any:
            return torch.utils.data.random_split(listed(0, 60), [40, 20])  # type: ignore[arg-type]

        refused(lambda: tuple(split()), r"gave other items when it was called again\. .*random_split's generator")

    def test_a_call_that_fails(self, refused: Any) -> None:
        refused(lambda first: listed(first, 9), r"^mine:make cannot be called with \{'start': 3\}: TypeError: .*'start'", start=3)
        refused(lambda: 1 / 0, r"cannot be called with \{\}: ZeroDivisionError: division by zero")

    def test_no_such_callable(self, tmp_path: Path, mine: Module) -> None:
        with pytest.raises(ConfigError, match="mine has no callable 'made'; it has make"):
            load_callable(tmp_path / "cache", "mine:made", {})
        with pytest.raises(ConfigError, match="there is no module 'not_mine'"):
            load_callable(tmp_path / "cache", "not_mine:make", {})
