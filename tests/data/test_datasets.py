"""Data sets by name, and the digits."""

from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from kd_hpo.data.datasets import DATASETS, load_digits


def test_names() -> None:
    assert set(DATASETS) == {"digits", "image_folder", "torchvision", "callable"}


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
