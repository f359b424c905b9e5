"""Relational distillation: how far examples of a batch are from each other, and at what angles, without a regressor."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.core.comparisons import Comparison

_EPSILON = 1e-6
"""Under the root of a distance: two examples that are the same then have a finite slope."""


def relational(distance: float = 25.0, angle: float = 50.0) -> Comparison:
    """The loss of a batch's distances and angles (RKD, Park et al. 2019, eq. 5-8): Huber's, each the mean of its terms.

    distance  of the term of B x B distances, each over the mean distance of two examples
    angle     of the term of B x B x B cosines of the angle at one example between two others
    """
    return Comparison(relations, partial(relational_distance, distance=distance, angle=angle))


def relations(rows: Tensor) -> Tensor:
    """The distances of each example to the batch, over their mean, then the cosines of the angles at it.

    rows (B, N, C) -> (B, B + B^2); an example with itself has 0.
    """
    flat = rows.flatten(1) if rows.stride(2) == 1 else rows.transpose(1, 2).flatten(1)
    flat = flat - flat.mean(0)  # which changes neither, and leaves float32 more of their digits
    gram, count = flat @ flat.t(), len(flat)
    apart = ~torch.eye(count, dtype=torch.bool, device=flat.device)
    own = gram.diagonal()
    squared = (own.unsqueeze(1) + own - 2 * gram).clamp_min(0) + _EPSILON
    distances = torch.where(apart, squared.sqrt(), 0.0)
    mean = distances.sum() / max(count * (count - 1), 1)
    inverse = torch.where(apart, squared.rsqrt(), 0.0)
    # <j - i, k - i> at [i, j, k]
    products = gram.unsqueeze(0) - gram.unsqueeze(2) - gram.unsqueeze(1) + own[:, None, None]
    cosines = products * inverse.unsqueeze(2) * inverse.unsqueeze(1)
    return torch.cat([distances / mean.clamp_min(torch.finfo(mean.dtype).tiny), cosines.flatten(1)], 1)


def relational_distance(student: Tensor, teacher: Tensor, *, distance: float, angle: float) -> Tensor:
    """Huber's loss of the relations (B, ..., B + B^2) of both: that of distances and that of angles, weighed -> (B, ...)."""
    count, (one, other) = len(student), torch.broadcast_tensors(student, teacher)
    huber = F.smooth_l1_loss(one, other, reduction="none")
    return distance * huber[..., :count].mean(-1) + angle * huber[..., count:].mean(-1)
