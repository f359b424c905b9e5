"""What several tests share: a small trial on the digits, and a cache of the session in which its teacher is trained once."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

from kd_hpo.config.data import Digits, SplitSizes
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.training import Training
from kd_hpo.config.trial import Network, Student, Teacher, TrialConfig
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare

os.environ.pop("MLFLOW_TRACKING_URI", None)  # of whoever runs the tests: studies would follow it
os.environ.pop("COLUMNS", None)  # which pytest-xdist sets: consoles would keep that width
torch.set_num_threads(1)
hypothesis.settings.register_profile("any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any machine")


def digits_trial(**changes: object) -> TrialConfig:
    """Two epochs of 7 steps: enough to learn, hold and resume, in well under a second."""
    fields: dict[str, object] = {
        "data": Digits(),
        "splits": SplitSizes(train=240, outer=120, val=120, test=200),
        "teacher": Teacher(
            network=Network(name="plain_conv", arguments={"channels": [8, 16], "hidden": 16, "padding": 1}),
            layers=("conv1", "conv2", "fc"),
            training=Training(epochs=4, batch_size=32),
        ),
        "student": Student(
            network=Network(name="plain_conv", arguments={"channels": [4, 4], "hidden": 8, "padding": 1}), layers=("conv1", "fc")
        ),
        "training": Training(epochs=4, batch_size=32),
    }
    return TrialConfig.model_validate(fields | changes)


def digits_study(runs: Path, **changes: object) -> StudyConfig:
    """A study of digits_trial, whose search has arms where `search` says so."""
    fields = {name: getattr(digits_trial(), name) for name in TrialConfig.model_fields}
    study = StudyConfig.model_validate(fields | {"name": "small", "runs": runs} | changes)
    if "arms" in study.search.model_fields_set:
        return study
    return study.replace(search=study.search.replace(arms=()).model_dump())


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def prepared(cache: Path) -> Prepared:
    return prepare(digits_trial(), cache)
