"""What the networks are for: which outputs a task accepts, what an example costs, and how good the outputs are.

A new task is a line in TASKS, a settings model of the same kind in kd_hpo.config.task, and a pass of its contract test.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.errors import ConfigError

Reduction = Literal["none", "mean", "sum"]


class Task(Protocol):
    """The loss of the labels, the metrics that tell a better network from a worse one, and how far two networks differ.

    Which way of the metric is better stands in the task's settings (`kd_hpo.config.task.Goal`), which are read without torch.
    """

    @property
    def metric(self) -> str:
        """The name of the one of `metrics` that studies go by."""
        ...

    @property
    def outputs(self) -> int:
        """The number of numbers that a network is built to give for an image."""
        ...

    def refuses(self, output: object) -> str | None:
        """Tells what a network has to return instead of this output; None where it is accepted.

        It is asked of the output for a few images, before anything is trained.
        """
        ...

    def loss(self, output: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        """The loss of each example, (B,), for "none", else their mean or sum, ().

        A task whose labels can be smoothed takes `smoothing` too: the share of each that is spread evenly over all there are.
        """
        ...

    def distance(self, output: Tensor, teacher: Tensor) -> Tensor:
        """How far a network's outputs are from the teacher's for the same images, (B,): 0 where they say the same, never less.

        It needs no labels. Networks are compared by its mean, their agreement: less is better.
        """
        ...

    def statistics(self, output: Tensor, labels: Tensor) -> Tensor:
        """Gives what `metrics` needs to know of a batch: the statistics of two batches together are the sum of theirs."""
        ...

    def metrics(self, statistics: Tensor) -> Mapping[str, Tensor]:
        """Gives each metric by its name, ()."""
        ...

    def knows(self, value: float, labels: Tensor) -> bool:
        """Whether a network whose metric is `value` on these labels knows anything: one that gives the same for all does not."""
        ...


class TaskLoss(Protocol):
    """The part of a task that is minimised (`Task`)."""

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, ()."""
        ...


def training_loss(task: TaskLoss, smoothing: float) -> Callable[..., Tensor]:
    """The loss of a task, of labels that are smoothed by so much. Raises ConfigError for a task that has no such labels."""
    loss: Callable[..., Tensor] = task.loss
    if not smoothing:
        return loss
    if "smoothing" not in signature(loss).parameters:
        raise ConfigError(
            f"training.label_smoothing is {smoothing:g}, and the task {type(task).__name__} cannot smooth its labels"
        )
    return partial(loss, smoothing=smoothing)


class Classification:
    """The task of telling one class of K for each image, by logits (B, K) and labels (B,).

    The loss is cross-entropy, times the weight of the label's class where classes have weights. The metrics are shares in [0, 1]:
    accuracy; balanced accuracy, the mean over the classes of the share of their examples that is right; and macro F1, the mean
    over the classes of 2 right / (examples + answers). A class without an example has no part in them, but in F1 where it is
    answered. The distance to a teacher is KL(p_teacher || p), p = softmax of the logits as they are, in nats.

    metric         the one of them that studies go by
    class_weights  (K,), or None for 1 each
    Raises ConfigError for another number of weights.
    """

    def __init__(self, classes: int, metric: str = "accuracy", class_weights: Sequence[float] | None = None) -> None:
        if class_weights is not None and len(class_weights) != classes:
            raise ConfigError(
                f"task.class_weights has {len(class_weights)} numbers, and the data has {classes} classes; give one a class, in "
                "their order, or balanced"
            )
        self.outputs, self.metric = classes, metric
        self.class_weights = None if class_weights is None else tuple(class_weights)

    def refuses(self, output: object) -> str | None:
        if not isinstance(output, Tensor) or output.dim() != 2:
            return "its logits alone, one tensor (B, K)"
        if output.shape[1] != self.outputs:
            return f"logits (B, {self.outputs}), one a class of the data"
        if _are_probabilities(output):
            return (
                "logits, and these are probabilities, none below 0 and all of an image 1 together: leave the softmax out, or say "
                "teacher.returns: probabilities where it is the teacher's"
            )
        return None

    def loss(self, output: Tensor, labels: Tensor, reduction: Reduction = "mean", smoothing: float = 0.0) -> Tensor:
        if self.class_weights is None:
            return F.cross_entropy(output, labels, reduction=reduction, label_smoothing=smoothing)
        # torch's own weights would divide the mean by their sum, so that an example's loss hung on the others of its batch
        weights = torch.tensor(self.class_weights, dtype=output.dtype, device=output.device)
        if smoothing:
            losses = F.cross_entropy(output, labels, weights, reduction="none", label_smoothing=smoothing)
            return _reduced(losses, reduction)
        return _reduced(weights[labels] * F.cross_entropy(output, labels, reduction="none"), reduction)

    def distance(self, output: Tensor, teacher: Tensor) -> Tensor:
        log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(output, dim=1)
        never = log_p.isneginf()  # a class of probability 0 adds 0, whatever the other says of it
        return torch.where(never, 0.0, log_p.exp() * (log_p - log_q)).sum(1)

    def statistics(self, output: Tensor, labels: Tensor) -> Tensor:
        """Counts (3, K): how many examples of each class are right, how many there are, how often it is answered."""
        answers = output.detach().argmax(1)
        right = answers == labels
        counts = torch.zeros(3, self.outputs, dtype=torch.float64, device=output.device)
        ones = torch.ones(len(labels), dtype=torch.float64, device=output.device)
        for row, (classes, values) in zip(counts, ((labels, ones * right), (labels, ones), (answers, ones)), strict=True):
            row.scatter_add_(0, classes, values)
        return counts

    def metrics(self, statistics: Tensor) -> dict[str, Tensor]:
        right, count, answered = statistics
        return {
            "accuracy": right.sum() / count.sum(),
            "balanced_accuracy": _mean_where(count > 0, right / count),
            "macro_f1": _mean_where(count + answered > 0, 2 * right / (count + answered)),
        }

    def knows(self, value: float, labels: Tensor) -> bool:
        """Whether the metric is clearly above what the best single answer to all has, by more than luck."""
        count = torch.bincount(labels.cpu(), minlength=self.outputs).double()
        total, classes = count.sum(), torch.arange(self.outputs)
        same = [torch.stack([count * (classes == answer), count, total * (classes == answer)]) for answer in classes]
        best = max(float(self.metrics(statistics)[self.metric]) for statistics in same)
        return bool(value > best + max(_BARELY * (1 - best), 2 * (best * (1 - best) / float(total)) ** 0.5))


_BARELY = 0.15
"""Of what lies between one answer to all and the right one to each."""


def _are_probabilities(output: Tensor) -> bool:
    if output.is_meta:
        return False
    few_bits = output.dtype in (torch.bfloat16, torch.float16)
    return bool((output >= 0).all()) and bool(((output.double().sum(1) - 1).abs() < (2e-2 if few_bits else 1e-3)).all())


def _reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _mean_where(counts: Tensor, values: Tensor) -> Tensor:
    return torch.where(counts, values, 0.0).sum() / counts.sum()


TASKS: dict[str, Callable[..., Task]] = {"classification": Classification}
"""By the `kind` of the task's settings: called with the data's number of classes, and with what the settings say."""


def task(kind: str, *, classes: int, **settings: Any) -> Task:
    return TASKS[kind](classes, **settings)
