"""The losses of one pair of layers, as pure functions of tensors: minus a lower bound of their mutual information."""

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


def categorical_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distillation of the logits (Hinton et al. 2015), a variational bound with a categorical q.

    student, teacher  (B, K) logits; the teacher's are a constant
    returns           (B,)   temperature^2 * KL(p_t || p_s), p = softmax(z / temperature), summed over K
    """
    log_s = F.log_softmax(student / temperature, dim=1)
    log_t = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)


def inverse_softplus(value: float) -> float:
    """rho with softplus(rho) = value, for value > 0."""
    return value + math.log(-math.expm1(-value))


def softplus_variance(rho: Tensor, floor: float) -> Tensor:
    """The variance that a free parameter stands for; the floor bounds the loss from below."""
    variance: Tensor = F.softplus(rho) + floor
    return variance


def entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of weights that sum to 1, any shape -> (); 0 at a corner, log(T S) where uniform."""
    total: Tensor = torch.special.xlogy(weights, weights).sum()
    return -total
