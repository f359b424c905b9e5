"""How good a network is on a split: the task's loss and metrics, and its agreement with a teacher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_hpo.core.tasks import Task
from kd_hpo.data.batches import ImageBatches, Indices, chunks
from kd_hpo.nets.features import evaluating

_CHUNK = 512


@dataclass(frozen=True)
class Score:
    """The score of a network on some images."""

    loss: float
    """The mean over the images; of classification in nats."""
    metrics: Mapping[str, float]
    """The task's, by name."""
    value: float
    """The metric that studies go by."""
    agreement: float | None = None
    """The mean of the task's distance to the teacher, where one was given; less is more agreement."""


def score(network: nn.Module, task: Task, batches: ImageBatches, indices: Indices, teacher: Tensor | None = None) -> Score:
    """Scores a network in eval mode, over all the images, as they are; network(x) gives its output, or that and features.

    teacher  (N, ...), its outputs for these images, in their order: the network's agreement with it is told too
    """
    loss, statistics, apart = torch.zeros((), device=batches.device), list[Tensor](), list[Tensor]()

    def add(images: Indices, output: Tensor) -> None:
        labels = batches.labels(images)
        loss.add_(task.loss(output, labels, "sum"))
        statistics.append(task.statistics(output, labels))
        if teacher is not None:
            apart.append(_distances(task, output, teacher, sum(map(len, apart))))

    tell_outputs(network, batches, indices, add)
    metrics = {name: float(value) for name, value in task.metrics(torch.stack(statistics).sum(0)).items()}
    return Score(float(loss) / len(indices), metrics, metrics[task.metric], float(torch.cat(apart).mean()) if apart else None)


def agreement(network: nn.Module, task: Task, batches: ImageBatches, indices: Indices, teacher: Tensor) -> float:
    """The mean of the task's distance to the teacher over images that need no labels; see `score`."""
    apart = list[Tensor]()
    tell_outputs(
        network, batches, indices, lambda _, output: apart.append(_distances(task, output, teacher, sum(map(len, apart))))
    )
    return float(torch.cat(apart).mean())


def tell_outputs(network: nn.Module, batches: ImageBatches, indices: Indices, tell: Callable[[Indices, Tensor], None]) -> None:
    """Tells what a network says in eval mode, without a gradient, of some of the images at a time, in their order."""
    with evaluating(network), torch.no_grad():
        for chunk in batches.ahead(chunks(indices, _CHUNK)):
            with batches.autocast():
                given = network(batches.inputs(chunk))
            tell(chunk, (given[0] if isinstance(given, tuple) else given).to(batches.dtype))


def outputs(network: nn.Module, batches: ImageBatches, indices: Indices) -> Tensor:
    """What a network says in eval mode of the images, (N, ...), on the CPU."""
    said = list[Tensor]()
    tell_outputs(network, batches, indices, lambda _, output: said.append(output.cpu()))
    return torch.cat(said)


def _distances(task: Task, output: Tensor, teacher: Tensor, start: int) -> Tensor:
    """(B,) in float64, of images from `start` on."""
    said = teacher[start : start + len(output)].to(output)
    return task.distance(output, said).double()
