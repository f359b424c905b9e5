"""The (image, label) items of data sets, as images that are read by number."""

import hashlib
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from kd_hpo.data.cache import Labelling
from kd_hpo.data.content import digest_of_content, labels_of
from kd_hpo.data.images import few, kind_of
from kd_hpo.data.pixels import Depiction, Look, depicted, fitted, look_at, raw_image
from kd_hpo.errors import DataError

SAMPLE = 64
"""Items of each half that are read at each start."""
HALVES = ("train", "test")


class DataSet(Protocol):
    """A data set of (image, label), as torch's map-style data sets are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Items:
    """The items of one data set, or of two, train and test, as images; `as_image` says what an image may be.

    source   what the items are of, for messages
    classes  their names; None where the labels are all that is known
    size     as in load_image_folder
    """

    def __init__(self, source: str, halves: Sequence[DataSet], classes: tuple[str, ...] | None, size: int | None) -> None:
        self.source, self.halves, self.classes, self.size = source, halves, classes, size
        for name, half in zip(HALVES, halves, strict=False):
            if not len(half):
                raise DataError(f"{source} has no item{f' in its {name} half' if len(halves) > 1 else ''}. Give it some.")
        self._labels = np.zeros(len(self), np.int64)
        self.how = Depiction()

    @property
    def what(self) -> str:
        return f"items of {self.source}"

    def __len__(self) -> int:
        return sum(map(len, self.halves))

    def name(self, index: int) -> str:
        half, number = self._place(index)
        return f"{HALVES[half]} item {number}" if len(self.halves) > 1 else f"item {number}"

    def read(self, index: int) -> Image.Image:
        image, self._labels[index] = self._item(index)
        return fitted(depicted(image, self.how), self.size)

    def look(self, index: int) -> Look:
        return look_at(self._item(index)[0])

    def labelling(self, notes: tuple[str, ...] = ()) -> Labelling:
        """Gives the labels and the names of the classes, once every item is read.

        Labels that no class names are numbered in their order; each is the name of its class.
        """
        labels, classes = self._labels, self.classes
        if classes is None:
            found, labels = np.unique(labels, return_inverse=True)
            classes = tuple(map(str, found.tolist()))
            if found[-1] != len(found) - 1:
                told = few([f"{label} -> {number}" for number, label in enumerate(classes)], 3)
                notes += (f"{len(found)} labels of {self.source} are numbered in their order: {told}; `classes` would name all",)
        if len(classes) < 2:
            raise DataError(f"the {self.what} are all of one class; accepted are labels of at least two, as 0, 1 and so on.")
        test_start = len(self.halves[0]) if len(self.halves) > 1 else None
        return Labelling(labels.astype(np.int64), classes, test_start, notes, self.how)

    def digest(self) -> str:
        """Gives the sha256 of lengths, class names, all labels, and as much of the pixels as can be had, in hex.

        What the data sets hold as arrays or lists of words, one for each item, counts whole; so do sizes and times of files that
        such lists name. SAMPLE evenly spread items of each half are read; all are where nothing that the data sets
        hold are their labels.
        """
        lengths = [len(half) for half in self.halves]
        digest = hashlib.sha256(repr((lengths, self.classes)).encode())
        for start, half in zip((0, lengths[0]), self.halves, strict=False):
            sample = np.linspace(0, len(half) - 1, min(SAMPLE, len(half))).astype(int)
            labels, read = labels_of(half), dict[int, int | None]()
            for number in sample:
                read[int(number)] = self._add(digest, start + int(number))
            if labels is None or any(label is not None and labels[number] != label for number, label in read.items()):
                for number in range(len(half)):
                    if number not in read:
                        self._add(digest, start + number)
            else:
                digest.update(labels.tobytes())
            digest.update(digest_of_content(half))
        return digest.hexdigest()

    def _add(self, digest: "hashlib._Hash", index: int) -> int | None:
        """The label of an item that is added; None for one that cannot be read."""
        try:
            image, label = self._item(index)
        except DataError:
            raise
        except Exception:  # named and counted when all items are read
            digest.update(b"broken")
            return None
        digest.update(f"{image.mode} {image.size} {label}\n".encode() + image.tobytes())
        return label

    def _place(self, index: int) -> tuple[int, int]:
        start = len(self.halves[0])
        return (0, index) if index < start else (1, index - start)

    def _item(self, index: int) -> tuple[Image.Image, int]:
        half, number = self._place(index)
        item, name = self.halves[half][number], f"{self.name(index)} of {self.source}"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{name} is {kind_of(item)}; accepted are pairs (image, label).")
        return raw_image(item[0], name), self._label(item[1], name)

    def _label(self, value: Any, name: str) -> int:
        try:
            label = operator.index(value)
        except TypeError:
            label = -1
        if label < 0:
            raise DataError(
                f"{name} has the label {' '.join(repr(value).split())[:60]}; accepted are whole numbers from 0 up. Give "
                "int(label), of a vector its argmax, of a name its place among `classes`, and leave out what has no label."
            )
        if self.classes and label >= len(self.classes):
            raise DataError(f"{name} has the label {label}, and `classes` names {len(self.classes)}: accepted are numbers below.")
        return label


def class_names(source: str, data_sets: Iterable[Any]) -> tuple[str, ...] | None:
    """Tells what the data sets call their classes; None if none says. Those of one name are told apart by their numbers.

    Raises DataError if the data sets do not agree.
    """
    said: list[tuple[str, ...]] = []
    for data_set in data_sets:
        classes = getattr(data_set, "classes", None)
        if isinstance(classes, tuple | list) and classes:  # Imagenette has several names a class
            names = [", ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in classes]
            twice = {name for name, count in Counter(names).items() if count > 1}  # as two cranes of ImageNet
            said.append(tuple(f"{name} ({number})" if name in twice else name for number, name in enumerate(names)))
    for other in said[1:]:
        if other != said[0]:
            differ = sorted(set(said[0]) ^ set(other))
            raise DataError(
                f"{source}: train and test must have the same `classes` in the same order, and "
                + (f"{few(differ)} {'is' if len(differ) == 1 else 'are'} only in one." if differ else "their orders differ.")
            )
    return said[0] if said else None
