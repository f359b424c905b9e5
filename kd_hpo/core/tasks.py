"""What the networks are for: which outputs a task accepts, what an example costs, and how good the outputs are.

A new task is a line in TASKS, a settings model of the same kind in kd_hpo.config.task, and a pass of its contract test.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["none", "mean", "sum"]


class Task(Protocol):
    """The loss of the labels, and the metrics that tell a better network from a worse one.

    Which way of the metric is better stands in the task's settings (`kd_hpo.config.task.Goal`), which are read without torch.
    """

    @property
    def metric(self) -> str:
        """The one of `metrics` that studies go by."""
        ...

    @property
    def outputs(self) -> int:
        """How many numbers a network is built to give for an image."""
        ...

    def refuses(self, output: object) -> str | None:
        """None, or what a network has to return instead: asked of its output for a few images, before anything is trained."""
        ...

    def loss(self, output: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        """(B,) of each example for "none", else their mean or sum, ()."""
        ...

    def statistics(self, output: Tensor, labels: Tensor) -> Tensor:
        """What `metrics` needs to know of a batch: the statistics of two batches together are the sum of theirs."""
        ...

    def metrics(self, statistics: Tensor) -> Mapping[str, Tensor]:
        """Each metric by its name, ()."""
        ...


class Classification:
    """One class of K for each image: cross-entropy of logits (B, K) and labels (B,), and accuracy, a share in [0, 1]."""

    metric = "accuracy"

    def __init__(self, classes: int) -> None:
        self.outputs = classes

    def refuses(self, output: object) -> str | None:
        if not isinstance(output, Tensor) or output.dim() != 2:
            return "its logits alone, one tensor (B, K)"
        return None if output.shape[1] == self.outputs else f"logits (B, {self.outputs}), one a class of the data"

    def loss(self, output: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        return F.cross_entropy(output, labels, reduction=reduction)

    def statistics(self, output: Tensor, labels: Tensor) -> Tensor:
        """(2,): how many examples are right, and how many there are."""
        right = (output.detach().argmax(1) == labels).sum(dtype=torch.float64)
        return torch.stack([right, torch.full_like(right, len(labels))])

    def metrics(self, statistics: Tensor) -> dict[str, Tensor]:
        right, count = statistics
        return {self.metric: right / count}


TASKS: dict[str, Callable[..., Task]] = {"classification": Classification}
"""By the `kind` of the task's settings: called with the data's number of classes, and with what the settings say."""


def task(kind: str, *, classes: int, **settings: Any) -> Task:
    return TASKS[kind](classes, **settings)
