"""The formula: minus a variational lower bound of mutual information, with a Gaussian (VID, Ahn et al. 2019)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_nll(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """Minus the log density of a Gaussian q(h_t | h_s), without its constant (VID, Ahn et al. 2019, eq. 5).

    mean      (B, N, C)  the regressor's prediction of the teacher's channels at N positions, from the student
    target    (B, N, C)  the teacher's channels, a constant
    variance  (C,)       of each teacher channel
    returns   (B, C)     nats an element, the mean over positions; unlimited below as the variance goes to 0, hence its floor
    """
    # The variance is the same at all positions: averaging squares first spares two passes over (B, N, C).
    square = (mean - target.detach()).square().mean(1)
    return 0.5 * (square / variance + variance.log())


def softplus_variance(rho: Tensor, floor: float) -> Tensor:
    """The variance that a free parameter stands for, in its shape; the floor bounds the loss from below."""
    variance: Tensor = F.softplus(rho) + floor
    return variance


def inverse_softplus(value: float) -> float:
    """The number rho with softplus(rho) = value, for value > 0."""
    return value + math.log(-math.expm1(-value))


def uniform_weight(fan_out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """Draws the weight (fan_out, fan_in) that torch itself starts a linear map from."""
    bound = math.sqrt(1 / fan_in)
    return (torch.rand(fan_out, fan_in, generator=generator) * 2 - 1) * bound
