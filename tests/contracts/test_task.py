"""Every task that ships keeps the contract of kd_hpo.testing; a new one is a line in TASKS and a class here."""

from functools import partial

import torch
from torch import Tensor

from kd_hpo.core.tasks import TASKS
from kd_hpo.testing import TaskContract


class TestClassification(TaskContract):
    task = TASKS["classification"]

    def labels(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(4, (count,), generator=generator)


class TestBalancedClassification(TestClassification):
    task = partial(TASKS["classification"], metric="balanced_accuracy", class_weights=(0.5, 1.0, 2.0, 4.0))


class TestClassificationByF1(TestClassification):
    task = partial(TASKS["classification"], metric="macro_f1")


def test_every_task_is_here() -> None:
    assert set(TASKS) == {"classification"}
