"""What a forward-mode pass through a network needs."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def plain_attention() -> AbstractContextManager[None]:
    """Makes attention plain matrix products inside: torch's fused kernels have no forward-mode derivative.

    A step and the Jacobian of that step belong inside alike, so that both draw the same dropout.
    """
    return sdpa_kernel(SDPBackend.MATH)


_RECURRENT = frozenset({torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu})


@contextmanager
def plain_recurrence() -> Iterator[None]:
    """Makes recurrent layers plain operations inside: those of oneDNN and cuDNN have but first derivatives, backwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the first of these, about a setting of Intel's GPUs that it copies
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


class TwiceDifferentiable(TorchFunctionMode):
    """A mode in which recurrent layers have second derivatives; other layers have them anyway."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with plain_recurrence() if func in _RECURRENT else nullcontext():
            return func(*args, **(kwargs or {}))


class ShortTangents(TorchFunctionMode):
    """A mode in which some layers have a tangent in few passes, the same as torch's own but for rounding.

    Torch's of batch norm by the batch's own moments takes some eighteen over the feature, most of them across the memory's order
    where channels are last, and with them nearly half of a small network's forward-mode pass. Its of a convolution convolves a
    tangent of the input also where there is none, as in a network's first layer, which often is the largest. Recurrent layers
    have one at all only by plain operations.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if func is F.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        if func in _RECURRENT:
            with plain_recurrence():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, *settings: Any, **named: Any) -> Tensor:
    """`torch.nn.functional.conv2d`, whose arguments may be given by their names."""
    if _moves(input) or not (_moves(weight) or _moves(bias)):
        return F.conv2d(input, weight, bias, *settings, **named)
    return _ConstantInput.apply(lambda w, b: F.conv2d(input, w, b, *settings, **named), weight, bias)  # type: ignore[no-any-return]


def _moves(tensor: Tensor | None) -> bool:
    """Whether it has a tangent; outside forward mode, none has."""
    return tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None


class _ConstantInput(torch.autograd.Function):
    """`layer(weight, bias)`, linear in both together. For forward mode alone."""

    @staticmethod
    def forward(ctx: Any, layer: Callable[[Tensor, Tensor | None], Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.layer, ctx.weight = layer, weight.detach()
        ctx.set_materialize_grads(False)
        return layer(weight, bias)

    @staticmethod
    def jvp(ctx: Any, _: None, dweight: Tensor | None, dbias: Tensor | None) -> Tensor:
        return ctx.layer(torch.zeros_like(ctx.weight) if dweight is None else dweight, dbias)  # type: ignore[no-any-return]


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`."""
    if training and (_moves(input) or _moves(weight) or _moves(bias)):
        return _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps)  # type: ignore[no-any-return]
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


class _BatchNorm(torch.autograd.Function):
    """For forward mode alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, inverse_deviation = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_forward(x, weight, mean, inverse_deviation)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dweight: Tensor | None, dbias: Tensor | None, *_: None) -> Tensor:
        """With z = (x - mean) r: dy = weight r (dx - E dx - z E[z dx]) + dweight z + dbias, E the mean over all but channels."""
        x, weight, mean, r = ctx.saved_tensors
        by_dx, by_x, level = torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros_like(mean)
        if dx is not None:
            by_dx = r if weight is None else weight * r
            dx_mean = _channel_mean(dx)
            by_x = -by_dx * r * r * (_channel_mean(x * dx) - mean * dx_mean)
            level = -by_dx * dx_mean
        if dweight is not None:
            by_x = by_x + dweight * r
        level = level - mean * by_x
        if dbias is not None:
            level = level + dbias
        shape = (1, -1, *[1] * (x.dim() - 2))
        along = torch.addcmul(level.view(shape), x, by_x.view(shape))
        return along if dx is None else along.addcmul_(dx, by_dx.view(shape))


def _channel_mean(x: Tensor) -> Tensor:
    """(B, C, ...) -> (C,)"""
    rows = x.movedim(1, -1)
    if not rows.is_contiguous():
        return x.mean([0, *range(2, x.dim())])
    rows = rows.flatten(0, -2)
    return rows.new_full((len(rows),), 1 / len(rows)) @ rows  # torch's own sum down the columns is many times slower
