"""Data sets by name, and the digits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import sklearn.datasets
from pydantic import Field

from kd_hpo.config.data import DataKind, Digits
from kd_hpo.config.load import places_read, with_absolute_paths
from kd_hpo.config.settings import FilePath
from kd_hpo.config.study import StudyConfig
from kd_hpo.data.cache import ImageSet, Labelling, Progress, new_images, open_or_build
from kd_hpo.data.datasets import DATASETS, load_digits
from kd_hpo.trial.data import load_images
from tests.conftest import digits_study


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
    first = load_digits(tmp_path)
    monkeypatch.delattr(sklearn.datasets, "load_digits")
    np.testing.assert_array_equal(load_digits(tmp_path).images, first.images)


class Numbers(DataKind):
    """A new kind: this model (and its name in `Data`), the reader below, and a line of DATASETS."""

    kind: Literal["numbers"] = "numbers"
    table: FilePath
    wide: int = 2

    def places(self) -> Mapping[str, Path]:
        return {"table": self.table}


def load_numbers(cache: Path, table: Path, wide: int, *, progress: Progress) -> ImageSet:
    rows = np.loadtxt(table, dtype=np.uint8)

    def build(folder: Path) -> Labelling:
        new_images(folder, (len(rows), 1, wide, wide))[:] = rows[:, 1:].reshape(-1, 1, wide, wide)
        return Labelling(rows[:, 0].astype(np.int64), ("a", "b"), None)

    return open_or_build(cache, "numbers", "numbers", table.read_text(), build)


class NumbersStudy(StudyConfig):
    data: Digits | Numbers = Field(discriminator="kind")  # type: ignore[assignment]


def test_a_new_kind_is_a_model_a_reader_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "numbers", load_numbers)
    monkeypatch.chdir(tmp_path)
    Path("table.txt").write_text("0 1 2 3 4\n1 5 6 7 8\n")
    given = digits_study(tmp_path / "runs").model_dump() | {"data": {"kind": "numbers", "table": "table.txt"}}
    study = with_absolute_paths(NumbersStudy.model_validate(given))
    assert isinstance(study.data, Numbers)
    assert study.data.table == tmp_path / "table.txt"  # it is read from elsewhere, and looked for on every node
    assert places_read(study) == {"data.table": tmp_path / "table.txt"}
    images = load_images(study.data, tmp_path / "cache", lambda _: None)
    assert images.images.tolist() == [[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]]
    assert images.labels.tolist() == [0, 1]
