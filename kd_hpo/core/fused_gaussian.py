"""The Gaussian pair loss of a linear regressor, in few passes over (B, N, C)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _FusedGaussian(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, variance: Tensor, target: Tensor, shares: Tensor, scale: Tensor
    ) -> Tensor:
        x = x.contiguous()
        error = F.linear(x, weight, bias).sub_(target)
        square = error.square().mean(1)
        ctx.save_for_backward(x, weight, variance, shares, scale, error, square)
        ctx.save_for_forward(x, weight, variance, shares, scale, error, square)
        ctx.set_materialize_grads(False)
        return (square / variance + variance.log()) @ (0.5 * shares)

    @staticmethod
    def jvp(
        ctx: Any, dx: Tensor | None, dweight: Tensor | None, dbias: Tensor | None, dvariance: Tensor | None, *_: None
    ) -> Tensor:
        x, weight, variance, shares, _, error, square = ctx.saved_tensors
        along = torch.zeros_like(square)  # (B, C): d nll
        for moved in (
            F.linear(dx, weight) if dx is not None else None,
            F.linear(x, dweight) if dweight is not None else None,
            dbias,
        ):
            if moved is not None:
                along = along + (error * moved).mean(1) / variance
        if dvariance is not None:
            along = along + 0.5 * (1 - square / variance) * (dvariance / variance)
        slope: Tensor = along @ shares
        return slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 7
        x, weight, variance, shares, scale, error, square = ctx.saved_tensors
        g = g @ shares.t() / variance  # (B, C): dL / d(square / 2)
        slope = error * (g / error.shape[1]).unsqueeze(1)  # (B, N, C): dL / d(prediction)
        rows = slope.flatten(0, 1)
        into_x = slope @ (scale.unsqueeze(1) * weight) if scale.dim() == 1 else (slope * scale.unsqueeze(1)) @ weight
        by_weight = (x.flatten(0, 1).t() @ rows).t()  # this order is the fast one for few columns of x
        by_variance = 0.5 * (g * (1 - square / variance)).sum(0)
        return into_x, by_weight, rows.sum(0), by_variance, None, None, None


def fused_gaussian(
    x: Tensor, weight: Tensor, bias: Tensor, variance: Tensor, target: Tensor, shares: Tensor, scale: Tensor
) -> Tensor:
    """`gaussian_nll(scaled_linear(x, weight, bias, scale), target, variance) @ shares`; forward mode knows no scale.

    x (B, N, C_s), weight (C, C_s), bias and variance (C,), target (B, N, C), shares (C, pairs), scale (C,) or (B, C)
    returns (B, pairs)
    """
    return _FusedGaussian.apply(x, weight, bias, variance, target, shares, scale)  # type: ignore[no-any-return]
