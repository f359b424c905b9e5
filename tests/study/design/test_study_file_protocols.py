"""The lines of studies/protocols: each is a study that can be read, of networks and methods that exist."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from kd_hpo.nets.zoo import build_network
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.design.trials import method_trials

PROTOCOLS = Path(__file__).parents[3] / "studies" / "protocols"
LINES = re.findall(r"^    kd-hpo run (studies/protocols/\S+) (.*)$", (PROTOCOLS / "README.md").read_text(), re.MULTILINE)


def test_all_nine_pairs_of_the_tables_are_there() -> None:
    assert len(LINES) == 9


@pytest.mark.parametrize(("file", "given"), LINES, ids=[re.findall(r"name=(\S+)", given)[0] for _, given in LINES])
def test_a_pair_is_a_study(file: str, given: str) -> None:
    study = load_study(PROTOCOLS.parents[1] / file, [word for word in shlex.split(given) if word != "--set"])
    trials = method_trials(study)
    assert study.training.optimizer.lr == (
        0.01 if study.student.network.name.startswith(("cifar_mobile", "cifar_shuffle")) else 0.05
    )
    assert (trials["kd"].kd.weight, trials["kd"].kd.task_weight) == (0.9, 0.1)
    assert trials["dkd"].kd.weight == 1
    assert trials["vid"].kd.weight == 0
    assert trials["hetero-dkd"].weighting.learning is not None
    for network in (study.teacher.network, study.student.network):
        with torch.device("meta"):
            build_network(network.name, network.arguments, (3, 32, 32), 100, seed=0)
