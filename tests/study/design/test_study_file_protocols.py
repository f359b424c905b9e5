"""The lines of studies/protocols: each is a study that can be read, of networks, views and methods that exist."""

import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import torch

from kd_hpo.config.study import StudyConfig
from kd_hpo.data.transforms import transform
from kd_hpo.nets.zoo import build_network
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.design.trials import method_trials
from kd_hpo.trial.optimizers import build_optimizer, build_schedule

PROTOCOLS = Path(__file__).parents[3] / "studies" / "protocols"
LINES = [
    (file, [word for word in shlex.split(given) if word != "--set"])
    for file, given in re.findall(
        r"^    kd-hpo run studies/protocols/(\S+) (.*)$", (PROTOCOLS / "README.md").read_text(), re.MULTILINE
    )
]
REPDISTILLER, OFA = ([given for file, given in LINES if file == f"{name}.yaml"] for name in ("repdistiller", "ofa"))


def name_of(given: list[str]) -> str:
    return given[0].removeprefix("name=")


@cache
def require_network(name: str, arguments: str, size: int) -> None:
    with torch.device("meta"):
        build_network(name, json.loads(arguments), (3, size, size), 100, seed=0)


def require_networks(study: StudyConfig, size: int) -> None:
    for network in (study.teacher.network, study.student.network):
        require_network(network.name, json.dumps(network.arguments), size)


def test_all_nine_pairs_of_the_tables_are_there() -> None:
    assert len([given for given in REPDISTILLER if not name_of(given).endswith("short")]) == 9


@pytest.mark.parametrize("given", REPDISTILLER, ids=name_of)
def test_a_pair_of_repdistiller_is_a_study(given: list[str]) -> None:
    study = load_study(PROTOCOLS / "repdistiller.yaml", given)
    trials = method_trials(study)
    assert study.training.optimizer.lr == (
        0.01 if study.student.network.name.startswith(("cifar_mobile", "cifar_shuffle")) else 0.05
    )
    assert (trials["kd"].kd.weight, trials["kd"].kd.task_weight) == (0.9, 0.1)
    assert trials["dkd"].kd.weight == 1
    assert trials["vid"].kd.weight == 0
    assert trials["hetero-dkd"].weighting.learning is not None
    require_networks(study, 32)


def test_the_rate_of_repdistiller_falls_where_its_code_has_it() -> None:
    """After epochs 150, 180 and 210, of teacher and student."""
    study = load_study(PROTOCOLS / "repdistiller.yaml", [])
    for training in (study.training, study.teacher.training):
        assert training is not None
        optimizer = build_optimizer(training, torch.nn.Linear(1, 1))
        schedule, rates = build_schedule(training, optimizer, 240), []
        for _ in range(240):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        assert rates == pytest.approx([0.05] * 150 + [0.005] * 30 + [0.0005] * 30 + [0.00005] * 30)


@pytest.mark.parametrize("given", OFA, ids=name_of)
def test_a_pair_of_ofa_is_a_study(given: list[str]) -> None:
    study = load_study(PROTOCOLS / "ofa.yaml", given)
    trials = method_trials(study)
    assert study.training.optimizer.lr == (0.05 if study.student.network.name == "timm/resnet18" else 5e-4)
    assert (trials["ofa"].kd.kind, trials["ofa"].pairs.strength) == ("ofa", 4)
    assert (trials["dkd"].kd.temperature, trials["dkd"].kd.schedule) == (1, None)
    assert trials["hetero-ofa"].weighting.learning is not None
    require_networks(study, 224)


def test_the_views_of_ofa_are_torchvisions() -> None:
    named = [step for step in load_study(PROTOCOLS / "ofa.yaml", []).augment if not isinstance(step, str)]
    assert [step.name for step in named] == [
        "RandomResizedCrop", "RandomApply", "RandomApply", "RandomErasing", "RandomChoice"
    ]  # fmt: skip
    for step in named:
        transform(step.name, step.arguments, (3, 32, 32), torch.full((3, 1, 1), 120.0), torch.full((3, 1, 1), 60.0))
