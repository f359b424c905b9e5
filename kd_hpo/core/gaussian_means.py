"""The Gaussian loss of all pairs at one resolution, the mean over a batch, from second moments: no pass over (B, N, C).

With an error e = W x + b - t, the mean of e^2 is a quadratic form in W of the second moments of x and of x with t. So value and
gradients are a few products of a tall matrix with a small one, for all pairs together; all else is as small as W.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _GaussianMeans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        variance: Tensor,
        target: Tensor,
        shares: Tensor,
        layers: Tensor,
        same: Tensor,
        scale: Tensor,
    ) -> Tensor:
        x, t = x.flatten(0, 1), target.flatten(0, 1).to(x)
        centre, t_mean = x.mean(0), t.mean(0).unsqueeze(1)
        # (B * N, J + C), side by side: one product with both is faster than two, and narrow ones lose digits (`_product`).
        zt = torch.cat([x - centre, t], 1)  # about its mean, or the digits would go to the square of the mean
        within, cross = _product(zt[:, : x.shape[1]], zt, 1 / len(x))
        slope = weight @ (within * same) - cross  # (C, J), half of d square / d weight, but for the mean
        level = torch.addmm(bias, weight * centre, layers)  # (C, S), the mean prediction
        spread = (t * t).mean(0).unsqueeze(1) - t_mean * t_mean
        error = level - t_mean
        square = torch.addmm(torch.addcmul(spread, error, error), (slope - cross) * weight, layers).clamp_min_(0)
        kept = (zt, weight, variance, shares, layers, same, scale, centre, slope, level, error, square)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)
        ctx.set_materialize_grads(False)
        ctx.shape = target.shape[:2]
        return shares.t() @ (square / variance + variance.log()) / 2

    @staticmethod
    def jvp(
        ctx: Any, dx: Tensor | None, dweight: Tensor | None, dbias: Tensor | None, dvariance: Tensor | None, *_: None
    ) -> Tensor:
        zt, weight, variance, shares, layers, same, _scale, centre, slope, level, error, square = ctx.saved_tensors
        along = torch.zeros_like(square)  # (C, S): half of d square
        if dx is not None:
            dx = dx.flatten(0, 1)
            with_z, with_t = _product(dx, zt, 1 / len(zt))
            along = along + ((weight @ (with_z * same) - with_t) * weight) @ layers + level * ((weight * dx.mean(0)) @ layers)
        if dweight is not None:
            along = along + (slope * dweight) @ layers + error * ((dweight * centre) @ layers)
        if dbias is not None:
            along = along + error * dbias
        along = along / variance
        if dvariance is not None:
            along = along + 0.5 * (1 - square / variance) * (dvariance / variance)
        return shares.t() @ along  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 9
        zt, weight, variance, shares, layers, same, scale, centre, slope, level, error, square = ctx.saved_tensors
        by_error = shares @ g / variance  # (C, S): dL / d(square / 2)
        into_x = (by_error * scale / len(zt)) @ layers.t() * weight
        by_x = torch.addmm((level @ layers.t() * into_x).sum(0), zt, torch.cat([weight.t() @ into_x * same, -into_x]))
        by_weight = torch.addcmul(slope, error @ layers.t(), centre) * (by_error @ layers.t())
        by_variance = 0.5 * by_error * (1 - square / variance)
        return by_x.unflatten(0, ctx.shape), by_weight, by_error * error, by_variance, *[None] * 5


def _product(x: Tensor, zt: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(rows, J), (rows, J + C) -> the shares of x with z, (J, J), z down and x across, and with t, (C, J)."""
    product = (x.t() @ zt).mul_(share).t()  # the wide one across: with few columns some processors add up row by row
    return product[: x.shape[1]], product[x.shape[1] :]


def gaussian_means(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    variance: Tensor,
    target: Tensor,
    shares: Tensor,
    layers: Tensor,
    same: Tensor,
    scale: Tensor,
) -> Tensor:
    """`gaussian_nll(scaled_linear(x_s, weight_s, bias_s, scale_s), target, variance_s).mean(0) @ shares` of each layer s.

    x        (B, N, J), S layers of the student side by side
    weight   (C, J), from each to all channels of the teacher; bias, variance and scale (C, S)
    target   (B, N, C), T layers of the teacher side by side
    shares   (C, T), of each channel in its layer's mean
    layers   (J, S), 1 where a channel is the layer's; same (J, J), 1 for two channels of one layer
    returns  (T, S); forward mode knows no scale
    """
    return _GaussianMeans.apply(x, weight, bias, variance, target, shares, layers, same, scale)  # type: ignore[no-any-return]
