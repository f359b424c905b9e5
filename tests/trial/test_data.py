"""The data of a trial: what is told of it before anything is trained."""

from pathlib import Path

import pytest

from kd_hpo.errors import Note
from kd_hpo.trial.data import load_data
from tests.conftest import digits_trial


@pytest.mark.parametrize(("val", "words"), [(120, []), (7, ["val has no image of "])])
def test_splits_that_lack_classes_are_told(cache: Path, val: int, words: list[str]) -> None:
    told: list[str] = []
    config = digits_trial(splits={"train": 240, "outer": 120, "val": val, "test": 200})
    batches, splits = load_data(config, cache, told.append)
    notes = [word for word in told if isinstance(word, Note)]
    assert len(notes) == len(words) and all(word in note for word, note in zip(words, notes, strict=True))
    absent = set(batches.images.classes) - {batches.images.classes[label] for label in batches.images.labels[splits.val]}
    assert all(len(absent) == 3 and name in note for name in absent for note in notes)
