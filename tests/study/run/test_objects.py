"""Modules and data sets of Python in a study: sent to its processes, or refused by name."""

import threading
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import nn

from kd_hpo.errors import ConfigError
from kd_hpo.study.cluster import prometheus
from kd_hpo.study.run.objects import objects_of_trials, study_with_objects
from kd_hpo.trial import given
from tests.conftest import digits_study


def test_a_module_is_found_in_another_process_that_is_told_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of it stands in a file, from which code would run."""

    class Own(nn.Linear):
        """A class that no module has by name."""

    module, nothing = Own(2, 2), {"teacher": None, "data": None}
    study = study_with_objects(digits_study(tmp_path), student=module, overrides={"training.epochs": 3}, **nothing)
    again = study_with_objects(digits_study(tmp_path), student=module, overrides={"training.epochs": 3}, **nothing)
    assert study.training.epochs == 3 and study == again
    objects = objects_of_trials(study)
    assert list(objects.values()) == [module] and objects_of_trials(digits_study(tmp_path)) == {}
    monkeypatch.setattr(given, "_here", {})
    with pytest.raises(ConfigError, match="give it again"):
        given.network(**study.student.network.arguments)
    with pytest.raises(ConfigError, match="give it again"):
        objects_of_trials(study)
    given.remember(cloudpickle.loads(cloudpickle.dumps(objects)))  # as Ray does
    assert torch.equal(given.network(**study.student.network.arguments).weight, module.weight)
    assert not any(tmp_path.rglob("*"))


def test_what_cannot_travel_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    none = {"teacher": None, "data": None, "overrides": None}
    away = digits_study(tmp_path, resources={"address": "host:6379"})
    with pytest.raises(ConfigError, match=r"host:6379.*name it"):
        study_with_objects(away, student=module, **none)
    module.lock = threading.Lock()
    with pytest.raises(ConfigError, match="cannot be sent"):
        study_with_objects(digits_study(tmp_path), student=module, **none)


def test_the_process_of_a_trial_is_told_of_objects_before_it_runs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Linear(2, 2)
    study = study_with_objects(digits_study(tmp_path), student=module, teacher=None, data=None, overrides=None)
    objects, found = objects_of_trials(study), []
    monkeypatch.setattr(given, "_here", {})
    monkeypatch.setattr(prometheus, "this_node", lambda: "here")  # which Ray tells its processes

    def worker(sampled: dict[str, object], **told: object) -> None:
        found.append(given.network(**study.student.network.arguments))

    prometheus.in_worker({}, worker=worker, study=study.name, objects=objects)
    assert torch.equal(found[0].weight, module.weight)
