"""Cuts a data set into disjoint splits, each with the classes in proportion."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np
import numpy.typing as npt

from kd_hpo.errors import DataError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint sorted indices into an ImageSet, read-only."""

    train: Indices
    """The inner loss."""
    outer: Indices
    """The hypergradient, nothing else."""
    val: Indices
    """Compares trials and picks the best epoch."""
    test: Indices
    """Opened once, for a study's winners."""
    extra: Indices
    """What is left of the pool, which no trial sees: a teacher may be trained on train + extra."""
    digests: Mapping[str, str]
    """`split_digest` of each split above."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The number of images that each split has."""
        return {name: len(getattr(self, name)) for name in self.digests}


def make_splits(
    labels: Indices,
    test_start: int | None,
    *,
    train: int | float | None,
    outer: int | float,
    val: int | float,
    test: int | float | None,
    seed: int,
) -> Splits:
    """Draws the splits from the pool: all images, or those before `test_start` where a test half of its own follows.

    labels  (N,)
    sizes   an int is a count, a float in (0, 1) a fraction of the pool, rounded down; train=None takes what is left
    test    None is the data set's own test half; a size is drawn from that half (a fraction is of it), or else from the pool
    Every split has, of each class, its proportional share of the pool rounded up or down. Who is in is drawn with `seed`.
    Raises DataError if a size is out of range or the splits ask for more images than there are.
    """
    pool = np.arange(len(labels) if test_start is None else test_start)
    own = np.arange(len(pool), len(labels))
    if test is None and not len(own):
        raise DataError("`test` is not set and the data set has no test half of its own. Give `test` a size.")
    random = np.random.Generator(np.random.PCG64(seed))
    asked = {"train": train, "outer": outer, "val": val, "test": None if len(own) else test}
    sizes = {name: _count(name, size, len(pool)) for name, size in asked.items() if size is not None}
    left = len(pool) - sum(sizes.values())
    if left < (train is None):
        ask = " + ".join(f"{name} {size}" for name, size in sizes.items()) + (" and some for train" if train is None else "")
        raise DataError(
            f"the splits ask for {ask}, {sum(sizes.values())} in all, of {len(pool)} images"
            f"{' outside the test half' if len(own) else ''}. Ask for fewer."
        )
    sizes["train" if train is None else "extra"] = left
    drawn = dict(zip(sizes, _draw(pool, labels, list(sizes.values()), random), strict=True))
    if test is None:
        drawn["test"] = own
    elif len(own):
        size = _count("test", test, len(own))
        if size > len(own):
            raise DataError(f"`test` asks for {size} images and the data set's own test half has {len(own)}. Ask for fewer.")
        drawn["test"] = _draw(own, labels, [size, len(own) - size], random)[0]
    parts = {name: _frozen(drawn.get(name, pool[:0])) for name in ("train", "outer", "val", "test", "extra")}
    return Splits(**parts, digests={name: split_digest(part) for name, part in parts.items()})


def outer_in_train(splits: Splits) -> Splits:
    """The splits with the outer one's images among those that train, where no hypergradient is taken any more."""
    parts = {"train": _frozen(np.sort(np.concatenate([splits.train, splits.outer]))), "outer": _frozen(splits.outer[:0])}
    return replace(splits, **parts, digests={**splits.digests, **{name: split_digest(part) for name, part in parts.items()}})


def split_digest(part: Indices) -> str:
    """The first 16 hex digits of the sha256 of the indices."""
    return hashlib.sha256(part.astype("<i8").tobytes()).hexdigest()[:16]


def _count(name: str, size: int | float, total: int) -> int:
    """The images that `size` stands for, of `total`."""
    count = floor(size * total + 1e-9) if isinstance(size, float) and 0 < size < 1 else size
    if not isinstance(count, int) or count < 1:
        raise DataError(
            f"`{name}` is {size}, of {total} images; accepted are a count from 1 up and a fraction between 0 and 1 that is "
            "at least one image. Give one of these."
        )
    return count


def _draw(pool: Indices, labels: Indices, sizes: Sequence[int], random: np.random.Generator) -> list[Indices]:
    """Cuts `pool` into disjoint stratified parts of `sizes`, which sum to len(pool)."""
    classes, class_of = np.unique(labels[pool], return_inverse=True)
    order = random.permutation(len(classes))  # so that no class is the first to be rounded up for every seed
    members = [random.permutation(pool[class_of == label]) for label in order]
    shares = apportion(sizes, [len(images) for images in members])
    cuts = [np.split(images, np.cumsum(share)[:-1]) for images, share in zip(members, shares, strict=True)]
    return [np.concatenate([cut[part] for cut in cuts]) for part in range(len(sizes))]


def apportion(sizes: Sequence[int], classes: Sequence[int]) -> list[list[int]]:
    """Tells how many images of each class each part takes: size * class / total, rounded up or down so that all sums hold.

    sizes (parts,) and classes (K,) have one sum -> (K, parts), with rows summing to `classes` and columns to `sizes`
    Each class gives what is left after rounding down to the parts of largest remainder; where those have no room, an
    image given before makes way (augmenting paths; that a solution exists is the integrality of network flows).
    """
    total = sum(sizes)
    exact = [[divmod(size * count, total) for size in sizes] for count in classes]
    room = [size - sum(row[part][0] for row in exact) for part, size in enumerate(sizes)]
    raised: list[set[int]] = [set() for _ in classes]  # of each class, the parts that are rounded up

    def give(label: int, seen: set[int]) -> bool:
        for part in sorted(range(len(sizes)), key=lambda part: -exact[label][part][1]):
            if exact[label][part][1] == 0 or part in raised[label] or part in seen:
                continue
            seen.add(part)
            if room[part] > 0:
                room[part] -= 1
            else:
                other = next((c for c in range(len(classes)) if part in raised[c] and give(c, seen)), None)
                if other is None:
                    continue
                raised[other].remove(part)
            raised[label].add(part)
            return True
        return False

    for label, count in enumerate(classes):
        for _ in range(count - sum(whole for whole, _ in exact[label])):
            give(label, set())
    return [[whole + (part in up) for part, (whole, _) in enumerate(row)] for row, up in zip(exact, raised, strict=True)]


def _frozen(indices: Indices) -> Indices:
    indices = np.sort(indices).astype(np.int64)
    indices.setflags(write=False)
    return indices
