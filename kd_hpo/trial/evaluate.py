"""Loss and accuracy of a network on a split."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.data.batches import ImageBatches, Indices, chunks
from kd_hpo.nets.features import evaluating

_CHUNK = 512


@dataclass(frozen=True)
class Score:
    loss: float
    """Cross-entropy in nats."""
    accuracy: float


def score(network: nn.Module, batches: ImageBatches, indices: Indices) -> Score:
    """In eval mode, over all the images, as they are; network(x) gives logits, or logits and features."""
    loss, correct = torch.zeros((), device=batches.device), torch.zeros((), device=batches.device)
    with evaluating(network), torch.no_grad():
        for chunk in batches.ahead(chunks(indices, _CHUNK)):
            with batches.autocast():
                output = network(batches.inputs(chunk))
            logits: Tensor = output[0] if isinstance(output, tuple) else output
            labels = batches.labels(chunk)
            loss += F.cross_entropy(logits.to(batches.dtype), labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
    return Score(float(loss) / len(indices), float(correct) / len(indices))
