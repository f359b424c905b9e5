"""How good a network is on a split: the task's loss and metrics."""

from collections.abc import Mapping
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


def score(network: nn.Module, task: Task, batches: ImageBatches, indices: Indices) -> Score:
    """Scores a network in eval mode, over all the images, as they are; network(x) gives its output, or that and features."""
    loss, statistics = torch.zeros((), device=batches.device), list[Tensor]()
    with evaluating(network), torch.no_grad():
        for chunk in batches.ahead(chunks(indices, _CHUNK)):
            with batches.autocast():
                given = network(batches.inputs(chunk))
            output: Tensor = (given[0] if isinstance(given, tuple) else given).to(batches.dtype)
            labels = batches.labels(chunk)
            loss += task.loss(output, labels, "sum")
            statistics.append(task.statistics(output, labels))
    metrics = {name: float(value) for name, value in task.metrics(torch.stack(statistics).sum(0)).items()}
    return Score(float(loss) / len(indices), metrics, metrics[task.metric])
