"""Forward as usual; backward, the gradient that flows into the student is scaled and nothing else.

A pair's regressor belongs to that pair alone, so its best response does not depend on the pair's weight. It is trained
at unit weight, so that it never starves, and the weight acts only where the pair's gradient enters the student.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _ScaledLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, scale)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        rows = g.flatten(0, -2)
        return (g * scale) @ weight, rows.t() @ x.flatten(0, -2), rows.sum(0), None


class _ScaledIdentity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return g * scale, None


def scaled_linear(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """The linear map of x; backward, output channel o sends scale[..., o] times its gradient into x.

    x (..., C_in), weight (C_out, C_in), bias (C_out,), scale broadcastable to (..., C_out) -> (..., C_out).
    The gradients of weight and bias are those of a plain linear map.
    """
    return _ScaledLinear.apply(x, weight, bias, scale)  # type: ignore[no-any-return]


def scaled_identity(x: Tensor, scale: Tensor) -> Tensor:
    """Gives x itself; backward, its gradient is multiplied by scale (broadcastable to x)."""
    return _ScaledIdentity.apply(x, scale)  # type: ignore[no-any-return]
