"""Steps on the simplex of pair weights: pure functions (weights, direction, step) -> weights, all of one shape."""

from collections.abc import Callable

import torch
from torch import Tensor

from kd_hpo.errors import ConfigError

SimplexUpdate = Callable[[Tensor, Tensor, float], Tensor]


def mirror_descent(weights: Tensor, direction: Tensor, step: float) -> Tensor:
    """Takes a step of exponentiated gradient (Kivinen & Warmuth 1997): a weight's log moves by the evidence, whatever it is."""
    return torch.softmax((weights.log() - step * direction).flatten(), 0).view_as(weights)


def softmax_logits(weights: Tensor, direction: Tensor, step: float) -> Tensor:
    """Takes a gradient step on logits whose softmax is the weights: a small weight hardly moves."""
    slope = weights * (direction - (weights * direction).sum())
    return torch.softmax((weights.log() - step * slope).flatten(), 0).view_as(weights)


def projection(weights: Tensor, direction: Tensor, step: float) -> Tensor:
    """Takes a gradient step and goes back to the nearest point of the simplex (Duchi et al. 2008): weights become exactly 0."""
    point = (weights - step * direction).flatten()
    point = point - point.max()  # the nearest point is the same, and rounding cannot lose the 1 however long the step
    ordered = point.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(point) + 1, device=point.device, dtype=point.dtype)
    kept = int((ordered > excess).sum())
    return (point - excess[kept - 1]).clamp_min(0).view_as(weights)


SIMPLEX_UPDATES: dict[str, SimplexUpdate] = {
    "mirror_descent": mirror_descent,
    "softmax_logits": softmax_logits,
    "projection": projection,
}


def uniform(shape: tuple[int, int]) -> Tensor:
    return torch.full(shape, 1 / (shape[0] * shape[1]))


def mix_with_uniform(weights: Tensor, share: float) -> Tensor:
    """Mixes (1 - share) of the weights with a share of the uniform point, so that no weight is stuck at 0."""
    return (1 - share) * weights + share / weights.numel()


def drawn_to(start: Tensor, weights: Tensor, share: float) -> Tensor:
    """Draws weights to their start: weights^(1 - share) * start^share, brought to sum 1.

    The logarithms forget a share of their way from the start. A weight of exactly 0, as `projection` makes them, stays 0.
    """
    way = torch.lerp(weights.log(), start.log(), share)
    return torch.softmax(torch.where(weights == 0, -torch.inf, way).flatten(), 0).view_as(weights)


def one_to_one(weights: Tensor) -> Tensor:
    """Keeps the weights of one pairing: each teacher layer with at most one student layer, each student layer with at most one.

    (T, S) -> (T, S), of sum 1. The pairing is the assignment with the largest product of weights (Kuhn 1955); its pairs keep
    their proportions.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError("weighting.pairing is one_to_one, which SciPy assigns: pip install 'kd_hpo[study]'") from error

    rows, columns = linear_sum_assignment(weights.clamp_min(torch.finfo(weights.dtype).tiny).log().cpu().numpy(), maximize=True)
    kept = torch.zeros_like(weights)
    kept[rows, columns] = weights[rows, columns]
    return kept / kept.sum()


def strongest(weights: Tensor, count: int) -> Tensor:
    """Keeps the `count` largest weights, in their proportions, of sum 1; the others are 0."""
    kept = torch.zeros_like(weights).flatten()
    places = weights.flatten().topk(min(count, weights.numel())).indices
    kept[places] = weights.flatten()[places]
    return (kept / kept.sum()).view_as(weights)


def normalised_direction(average: Tensor, weights: Tensor) -> Tensor:
    """Centres a hypergradient on <weights, h> and divides it by its RMS: a step size then means the same in every network.

    A hypergradient that is the same for all pairs says nothing about them: the direction is zero.
    """
    level = average - average.max()  # exactly 0 where all are the same, though the weights sum to 1 only up to rounding
    centred = level - (weights * level).sum()
    rms = centred.square().mean().sqrt()
    same = rms <= torch.finfo(rms.dtype).eps * average.abs().max()  # not so for NaN, which has to be seen
    return torch.where(same, torch.zeros_like(centred), centred / rms)
