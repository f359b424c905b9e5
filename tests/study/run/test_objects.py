"""Modules and data sets of Python in a study: kept for its processes, or refused by name."""

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from kd_hpo.errors import ConfigError
from kd_hpo.study.run.objects import study_with_objects
from kd_hpo.trial import given
from tests.conftest import digits_study


def test_a_kept_module_comes_back_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        """A class that no module has by name."""

    module, nothing = Own(2, 2), {"teacher": None, "data": None}
    study = study_with_objects(digits_study(tmp_path), student=module, overrides={"training.epochs": 3}, **nothing)
    again = study_with_objects(digits_study(tmp_path), student=module, overrides={"training.epochs": 3}, **nothing)
    assert study.training.epochs == 3 and study == again
    monkeypatch.setattr(given, "_here", {})
    found = given.network(**study.student.network.arguments)
    assert torch.equal(found.weight, module.weight)


def test_what_cannot_travel_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    none = {"teacher": None, "data": None, "overrides": None}
    away = digits_study(tmp_path, resources={"address": "host:6379"})
    with pytest.raises(ConfigError, match=r"host:6379.*name it"):
        study_with_objects(away, student=module, **none)
    module.lock = threading.Lock()
    with pytest.raises(ConfigError, match="cannot be sent"):
        study_with_objects(digits_study(tmp_path), student=module, **none)
