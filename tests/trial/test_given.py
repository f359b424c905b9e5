"""Modules, data sets and overrides from Python, in the place of what settings name."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kd_hpo.errors import ConfigError
from kd_hpo.trial.given import network, with_objects
from kd_hpo.trial.parts import Prepared, build_student
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial

SHORT = {"training.epochs": 2, "weighting": {"kind": "uniform"}}


def test_modules_give_the_numbers_that_their_names_give(cache: Path, prepared: Prepared) -> None:
    config = digits_trial()
    student = build_student(config, prepared.batches, cache)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    named = run_trial(config, lambda _: None, cache=cache, overrides=SHORT)
    given = run_trial(config, lambda _: None, cache=cache, teacher=prepared.teacher.network, student=student, overrides=SHORT)
    assert [record.metrics for record in given.records] == [record.metrics for record in named.records]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())  # a copy was trained
    assert given.student is not None and named.student is not None
    trained = named.student.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in given.student.state_dict().items())
    assert "student" not in set(given.model_dump()) and type(given).model_validate_json(given.model_dump_json()).student is None


def test_a_data_set_is_read_as_one_that_is_named(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    items = [(chance.integers(256, size=(8, 8), dtype=np.uint8), number % 2) for number in range(60)]
    splits = {"splits": {"train": 32, "outer": 8, "val": 8, "test": 8}, "training.batch_size": 16}
    quick = {
        "teacher.training.epochs": 1,
        "teacher.training.batch_size": 16,
        "training.epochs": 1,
        "weighting": {"kind": "uniform"},
    }
    result = run_trial(digits_trial(), lambda _: None, cache=tmp_path, data=items, overrides=splits | quick)
    assert result.student is not None and result.student(torch.zeros(1, 1, 8, 8)).shape == (1, 2)


def test_what_this_process_was_not_given_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = with_objects(digits_trial(), student=torch.nn.Linear(2, 2)).student.network.arguments
    monkeypatch.setattr("kd_hpo.trial.given._here", {})
    with pytest.raises(ConfigError, match="give it again"):
        network(**arguments)


def test_objects_beside_what_was_prepared_without_them_are_refused(cache: Path, prepared: Prepared) -> None:
    with pytest.raises(ConfigError, match="prepared"):
        run_trial(digits_trial(), lambda _: None, cache=cache, prepared=prepared, overrides=SHORT)
