"""The Gaussian pair loss of a linear regressor, the mean over a batch, from second moments: no pass over (B, N, C).

With an error e = W x + b - t, the mean of e^2 is a quadratic form in W of the second moments of x and of x with t. So value and
gradients are a few products of a tall matrix with a small one; all else is as small as W.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _GaussianMeans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, variance: Tensor, target: Tensor, shares: Tensor, scale: Tensor
    ) -> Tensor:
        x, t = x.flatten(0, 1), target.flatten(0, 1)
        mean = x.new_full((len(x),), 1 / len(x))
        centre, t_mean = x.t().mv(mean), t.t().mv(mean)
        z = x - centre  # about its mean, or the digits would go to the square of the mean
        cross = (z.t() @ t).t() / len(x)
        slope = weight @ (z.t() @ z / len(x)) - cross
        level = bias + weight @ centre  # the mean prediction
        spread = (t * t).t().mv(mean) - t_mean * t_mean
        square = (((slope - cross) * weight).sum(1) + (level - t_mean).square() + spread).clamp_min(0)
        kept = (z, t, weight, variance, shares, scale, mean, centre, slope, level, level - t_mean, square)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)
        ctx.set_materialize_grads(False)
        ctx.shape = target.shape[:2]
        return (square / variance + variance.log()) @ (0.5 * shares)

    @staticmethod
    def jvp(
        ctx: Any, dx: Tensor | None, dweight: Tensor | None, dbias: Tensor | None, dvariance: Tensor | None, *_: None
    ) -> Tensor:
        z, t, weight, variance, shares, _scale, mean, centre, slope, level, error, square = ctx.saved_tensors
        along = torch.zeros_like(square)  # (C,): half of d square
        if dx is not None:
            dx = dx.flatten(0, 1)
            moved = weight @ (z.t() @ dx / len(z)) - (dx.t() @ t).t() / len(z)
            along = along + (moved * weight).sum(1) + level * (weight @ dx.t().mv(mean))
        if dweight is not None:
            along = along + (slope * dweight).sum(1) + error * (dweight @ centre)
        if dbias is not None:
            along = along + error * dbias
        along = along / variance
        if dvariance is not None:
            along = along + 0.5 * (1 - square / variance) * (dvariance / variance)
        return along @ shares  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 7
        z, t, weight, variance, shares, scale, _mean, centre, slope, level, error, square = ctx.saved_tensors
        by_error = shares @ g / variance  # (C,): dL / d(square / 2)
        into_x = (by_error * scale / len(z)).unsqueeze(1) * weight
        by_x = torch.addmm(level @ into_x, z, weight.t() @ into_x).addmm_(t, into_x, alpha=-1)
        by_weight = torch.addcmul(slope, error.unsqueeze(1), centre) * by_error.unsqueeze(1)
        by_variance = 0.5 * by_error * (1 - square / variance)
        return by_x.unflatten(0, ctx.shape), by_weight, by_error * error, by_variance, None, None, None


def gaussian_means(
    x: Tensor, weight: Tensor, bias: Tensor, variance: Tensor, target: Tensor, shares: Tensor, scale: Tensor
) -> Tensor:
    """`gaussian_nll(scaled_linear(x, weight, bias, scale), target, variance).mean(0) @ shares`; forward mode knows no scale.

    x (B, N, C_s), weight (C, C_s), bias and variance (C,), target (B, N, C), shares (C, pairs), scale (C,)
    returns (pairs,)
    """
    return _GaussianMeans.apply(x, weight, bias, variance, target, shares, scale)  # type: ignore[no-any-return]
