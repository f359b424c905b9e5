"""Splits are disjoint, stratified, of the size that was asked, and the same for the same seed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_hpo.data.splits import Splits, apportion, make_splits
from kd_hpo.errors import DataError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 120))  # 1200 images, 120 a class
NAMES = ("train", "outer", "val", "test", "extra")
SIZES: dict[str, Any] = {"train": 700, "outer": 100, "val": 100, "test": 150}


def split(labels: np.ndarray = LABELS, test_start: int | None = None, seed: int = 0, **sizes: Any) -> Splits:
    return make_splits(labels, test_start, seed=seed, **SIZES | sizes)


def counts(splits: Splits) -> dict[str, int]:
    return {name: len(getattr(splits, name)) for name in NAMES}


def assert_disjoint(splits: Splits) -> np.ndarray:
    together = np.concatenate([getattr(splits, name) for name in NAMES])
    assert len(np.unique(together)) == len(together)
    return together


def test_sizes_and_extra() -> None:
    assert counts(split()) == {**SIZES, "extra": 150}
    assert sorted(assert_disjoint(split())) == list(range(1200))


def test_indices_are_sorted_and_read_only() -> None:
    for name in NAMES:
        indices = getattr(split(), name)
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()
        with pytest.raises(ValueError, match="read-only"):
            indices[0] = 0


def test_train_takes_the_rest() -> None:
    splits = split(train=None)
    assert counts(splits) == {"train": 850, "outer": 100, "val": 100, "test": 150, "extra": 0}
    assert splits.extra.dtype == np.int64


def test_fractions_are_of_the_pool() -> None:
    splits = split(test_start=1000, train=0.5, outer=0.29, val=0.0015, test=None)
    assert counts(splits) == {"train": 500, "outer": 290, "val": 1, "test": 200, "extra": 209}


def test_fractions_that_sum_to_one_fit() -> None:
    assert counts(split(LABELS[:1197], train=0.7, outer=0.1, val=0.1, test=0.1))["extra"] == 1197 - 837 - 3 * 119


def test_own_test_half_is_taken_whole() -> None:
    splits = split(test_start=1100, test=None)
    np.testing.assert_array_equal(splits.test, np.arange(1100, 1200))
    assert max(splits.train[-1], splits.outer[-1], splits.val[-1], splits.extra[-1]) < 1100


@pytest.mark.parametrize("size", [60, 0.25])
def test_a_sample_of_the_own_test_half(size: float) -> None:
    splits = split(np.tile(np.arange(10), 120), test_start=960, train=None, test=size)
    assert counts(splits) == {"train": 760, "outer": 100, "val": 100, "test": 60, "extra": 0}
    assert splits.test[0] >= 960
    np.testing.assert_array_equal(np.bincount(splits.test % 10), 6)


def test_the_test_size_moves_no_other_split_when_it_comes_from_the_own_half() -> None:
    some, all_ = split(test_start=1000, train=None, test=50), split(test_start=1000, train=None, test=None)
    assert [some.digests[name] == all_.digests[name] for name in NAMES] == [True, True, True, False, True]


def test_same_seed_same_splits() -> None:
    assert split(seed=3).digests == split(seed=3).digests
    np.testing.assert_array_equal(split(seed=3).train, split(seed=3).train)


def test_the_draw_does_not_change_between_machines_and_releases() -> None:
    """Recorded once: a change here means that every earlier study was run on other splits."""
    assert split(seed=3).digests == {
        "train": "09407b2b6a5faca9",
        "outer": "b4d824f253a09698",
        "val": "54bc7a92638ad331",
        "test": "da7fec272f2ff2f6",
        "extra": "a373f3c6c4fd04dc",
    }


def test_other_seeds_differ() -> None:
    for name in NAMES:
        assert len({split(seed=seed).digests[name] for seed in range(20)}) == 20


def test_no_class_is_always_the_first_to_be_rounded_up() -> None:
    rounded_up = {int(np.bincount(LABELS[split(seed=seed, val=101).val]).argmax()) for seed in range(60)}
    assert rounded_up == set(range(10))


def test_every_image_has_its_chance() -> None:
    """250 draws of 1/12: binomial, standard deviation 4.4; 6 of them are 1 in 10^9 an image."""
    hits = np.bincount(np.concatenate([split(seed=seed).outer for seed in range(250)]), minlength=1200)
    assert abs(hits - 250 / 12).max() < 6 * 4.4


def test_labels_need_not_be_dense() -> None:
    splits = split(LABELS * 7 - 20)
    assert splits.digests == split().digests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": None}, r"`test` is not set and the data set has no test half .*Give `test` a size"),
        ({"outer": 0}, r"`outer` is 0, of 1200 images; accepted are a count from 1 up and a fraction between 0 and 1"),
        ({"val": -1}, r"`val` is -1"),
        ({"val": 1.0}, r"`val` is 1.0"),
        ({"val": 2.5}, r"`val` is 2.5"),
        ({"val": float("nan")}, r"`val` is nan"),
        ({"train": 0.0005}, r"`train` is 0.0005, of 1200 images"),
        ({"train": 900}, r"train 900 \+ outer 100 \+ val 100 \+ test 150, 1250 in all, of 1200 images. Ask for fewer"),
        ({"test_start": 1000, "val": 300}, r"train 700 .* 1100 in all, of 1000 images outside the test half"),
        ({"train": None, "test": 1000}, r"test 1000 and some for train, 1200 in all, of 1200 images"),
        ({"test_start": 1000, "test": 201}, r"`test` asks for 201 images and the data set's own test half has 200"),
    ],
)
def test_sizes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(**changes)


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, int | None, dict[str, Any]]:
    labels = np.array(draw(st.lists(st.integers(0, 6), min_size=4, max_size=120)))
    test_start = draw(st.none() | st.integers(3, len(labels) - 1))
    left = len(labels) if test_start is None else test_start
    sizes: dict[str, Any] = {}
    names = ["outer", "val", "train"] + (["test"] if test_start is None else [])
    for waiting, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
        sizes[name] = draw(st.integers(1, left - waiting))
        left -= sizes[name]
    if test_start is not None:
        sizes["test"] = draw(st.none() | st.integers(1, len(labels) - test_start))
    if draw(st.booleans()):
        sizes["train"] = None
    return labels, test_start, sizes


@given(requests(), st.integers(0, 2**32))
def test_any_splits_are_disjoint_stratified_and_repeatable(request: Any, seed: int) -> None:
    labels, test_start, sizes = request
    splits = make_splits(labels, test_start, seed=seed, **sizes)
    pool = len(labels) if test_start is None else test_start
    assert_disjoint(splits)
    assert splits.digests == make_splits(labels, test_start, seed=seed, **sizes).digests
    for name in NAMES:
        part, size = getattr(splits, name), sizes.get(name)
        assert size is None or len(part) == size
        own = name == "test" and test_start is not None
        assert ((part >= pool) == own).all()
        whole = labels[pool:] if own else labels[:pool]
        share = np.bincount(whole, minlength=7) * len(part) / len(whole)
        assert (abs(np.bincount(labels[part], minlength=7) - share) < 1 - 1e-9).all()
    assert sum(len(getattr(splits, name)) for name in NAMES if name != "test" or test_start is None) == pool


def test_apportion_by_largest_remainder() -> None:
    """7 of 10 images: 5 * 0.7 = 3.5, 3 * 0.7 = 2.1, 2 * 0.7 = 1.4, whose whole parts leave one more for the first class."""
    assert apportion([7, 3], [5, 3, 2]) == [[4, 1], [2, 1], [1, 1]]


def test_apportion_when_the_first_choice_has_to_make_way() -> None:
    """A third of each class to each part, so one image each: whatever the order, all sums hold."""
    assert [sorted(row) for row in apportion([1, 1, 1], [1, 1, 1])] == [[0, 0, 1]] * 3
    assert [sum(column) for column in zip(*apportion([1, 1, 1], [1, 1, 1]), strict=True)] == [1, 1, 1]
