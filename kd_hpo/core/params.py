"""A student's parameters, or anything of their shapes, as one vector: tensors by name."""

import torch
from torch import Tensor

Params = dict[str, Tensor]


def added(a: Params, b: Params, factor: float) -> Params:
    """The sum a + factor * b."""
    return {name: value + factor * b[name] for name, value in a.items()}


def between(a: Params, b: Params, share: float) -> Params:
    """The mean (1 - share) * a + share * b."""
    return {name: torch.lerp(value, b[name], share) for name, value in a.items()}


def scaled(a: Params, factor: float) -> Params:
    return {name: factor * value for name, value in a.items()}


def dot(a: Params, b: Params) -> float:
    return sum(float((value * b[name]).sum(dtype=torch.float64)) for name, value in a.items())


def norm(a: Params) -> float:
    return float(dot(a, a) ** 0.5)
