"""The Gaussian loss of all pairs, the mean over a batch, from second moments: no pass over (B, N, C), one call for all of them.

What it computes is `kd_hpo.core.gaussian.formula.gaussian_nll` of linear regressors; tests hold it to that, to the second order.
Of one cell (a channel of the teacher with values t, as a layer of the student with values x of J channels predicts it) over the
n = B N rows of a batch, e = W'x + b - t, and with x~ = x - mean x, t~ = t - mean t:

    M = mean x~ x~',  c = mean x~ t~,  v = mean t~^2,  m = W' mean x + b - mean t       the moments, and the mean of e
    s = M W - c                                                                         half of d(mean e~^2) / dW
    mean e^2 = m^2 + v + W'(s - c)
    loss = (log z + mean e^2 / z) / 2,  z = softplus(rho) + floor
    d loss / dW = (s + m mean x) / z,  d / db = m / z,  d / drho = sigmoid(rho) (1 - mean e^2 / z) / 2 z
    d loss / dx = (W (W'x~ - t~) + m W) / n z

So value and gradients are a few products of a tall matrix with a small one for each block of layers; all else is as small as W,
or done once for the channels of all pairs, since many small operations cost more than the arithmetic in them.
"""

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MANY = 2_048
"""Rows from which on a convolution's own overhead is less than it saves."""


Where = slice | Tensor | None
"""What selects them: nothing where they are all, no copy where they stand side by side."""


class BlockShape:
    """S layers of the student and some of the teacher, at one resolution, by the channels of each.

    places, rows, columns  where the layers of the student, their channels, and those of the teacher stand in the parameters
    owner                  (J,), the layer of each channel of the student
    layers                 (S, J), 1 where a channel is the layer's; same (J, J), 1 for two channels of one layer
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        like: Tensor,
        *,
        places: Where = None,
        rows: Where = None,
        columns: Where = None,
    ) -> None:
        self.student, self.teacher, self.cells = tuple(student), tuple(teacher), (len(student), sum(teacher))
        self.in_weight, self.in_cells = _key(rows, columns), _key(places, columns)
        widths = torch.tensor(student, device=like.device)
        self.owner = torch.arange(len(student), device=like.device).repeat_interleave(widths)
        self.layers = F.one_hot(self.owner, len(student)).t().to(like).contiguous()
        self.same = self.layers.t() @ self.layers


class BlockInputs(NamedTuple):
    """What the losses of a block are computed from: regressors, targets and features.

    weight     (J, C), from all channels of the layers of the student
    bias, rho  (S, C), the variance being softplus(rho) and the floor; all three perhaps with more layers around them
    target     (B, N, C)
    x          (B, N, J_s), of each layer
    """

    weight: Tensor
    bias: Tensor
    rho: Tensor
    target: Tensor
    x: list[Tensor]


class Cells:
    """One number for each channel of the teacher in each pair: (S, C) of each block, pair after pair, all blocks side by side.

    channels  (pairs,), how many cells each pair has
    pair      (cells,), whose each is; share (cells,), of it in the pair's mean
    """

    def __init__(self, blocks: Sequence[BlockShape], like: Tensor) -> None:
        self.blocks, self.sizes = tuple(blocks), [block.cells[0] * block.cells[1] for block in blocks]
        channels = [c for block in blocks for _ in block.student for c in block.teacher]
        self.channels = torch.tensor(channels, dtype=torch.long, device=like.device)
        self.pair = torch.arange(len(channels), device=like.device).repeat_interleave(self.channels)
        self.share = (1 / self.channels.to(like))[self.pair]

    def of_blocks(self, cells: Tensor) -> Iterator[Tensor]:
        """Splits (..., cells) into (..., S, C) of each block."""
        parts = zip(self.blocks, cells.split(self.sizes, -1), strict=True)
        return (part.unflatten(-1, block.cells) for block, part in parts)

    def of_parameters(self, of_blocks: Sequence[Tensor]) -> Tensor:
        """Selects the cells of each block's (S, C) -> (cells,)."""
        parts = zip(self.blocks, of_blocks, strict=True)
        return torch.cat([(whole[block.in_cells] if block.in_cells else whole).flatten() for block, whole in parts])

    def mean(self, cells: Tensor) -> Tensor:
        """Averages the cells of each pair: (cells,) -> (pairs,)."""
        return torch.segment_reduce(cells, "mean", lengths=self.channels, unsafe=True)


class _GaussianMeans(torch.autograd.Function):
    """Its inputs are `BlockInputs`, flat. What is used of them is selected and put back here: fewer steps for autograd."""

    @staticmethod
    def forward(ctx: Any, cells: Cells, floor: float, scale: Tensor | None, *inputs: Tensor) -> Tensor:
        blocks = list(_by_block(cells, inputs))
        bias, rho = (cells.of_parameters([of_block[i] for of_block in blocks]) for i in (1, 2))
        variance = F.softplus(rho).add_(floor)
        squares, errors, kept = list[Tensor](), list[Tensor](), list[Tensor]()
        for block, b, (whole, _, _, target, *x) in zip(cells.blocks, cells.of_blocks(bias), blocks, strict=True):
            weight = whole[block.in_weight] if block.in_weight else whole
            J = len(weight)
            # (B * N, J + C), side by side: one product with both is faster than two. Each is taken about its mean, or the digits
            # would go to the square of that.
            zt = torch.cat([*x, target.to(weight)], 2).flatten(0, 1)
            mean = zt.mean(0)
            zt -= mean
            t, x_mean, t_mean = zt[:, J:], mean[:J].unsqueeze(1), mean[J:]
            within, cross = _moments(zt[:, :J], zt)
            slope = torch.addmm(cross, within.mul_(block.same), weight, beta=-1)  # (J, C), half of d square / dW about the means
            squares.append(torch.addmm((t * t).mean(0), block.layers, (slope - cross).mul_(weight)).flatten())
            errors.append(torch.addmm(b - t_mean, block.layers, weight * x_mean).flatten())  # of the means
            kept += _Kept(weight, zt, x_mean, slope)
        error = torch.cat(errors)
        relative = torch.cat(squares).addcmul_(error, error).clamp_min_(0).div_(variance)
        ctx.cells, ctx.scale, ctx.shapes = cells, scale, [(w.shape, b.shape, target.shape[:2]) for w, b, _, target, *_ in blocks]
        ctx.save_for_backward(*kept, rho, variance, error, relative)
        ctx.save_for_forward(*kept, rho, variance, error, relative)
        ctx.set_materialize_grads(False)
        return cells.mean(variance.log().add_(relative)).div_(2)

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, ___: None, *tangents: Tensor | None) -> Tensor:
        cells: Cells = ctx.cells
        (*kept, rho, variance, error, relative), halves = ctx.saved_tensors, list[Tensor]()
        blocks = list(_by_block(cells, tangents))
        for block, e, (weight, zt, x_mean, slope), (dwhole, dbias, _, _, *dx) in zip(
            cells.blocks, cells.of_blocks(error), _kept_by_block(kept), blocks, strict=True
        ):
            about, level = torch.zeros_like(weight), torch.zeros_like(weight)
            if any(d is not None for d in dx):
                widths = zip(dx, block.student, strict=True)
                rows = torch.cat([zt.new_zeros(len(zt), w) if d is None else d.flatten(0, 1) for d, w in widths], 1)
                with_z, with_t = _moments(rows, zt)
                about = torch.addmm(with_t, with_z.mul_(block.same), weight, beta=-1).mul_(weight)
                level = weight * rows.mean(0).unsqueeze(1)
            if dwhole is not None:
                dweight = dwhole[block.in_weight] if block.in_weight else dwhole
                about, level = torch.addcmul(about, slope, dweight), torch.addcmul(level, dweight, x_mean)
            of_error = block.layers @ level
            if dbias is not None:
                of_error += dbias[block.in_cells] if block.in_cells else dbias
            halves.append(torch.addcmul(block.layers @ about, e, of_error).flatten())  # of d square
        along = torch.cat(halves)
        if any(drho is not None for _, _, drho, *_ in blocks):
            drho = [
                torch.zeros(shape).to(rho) if d is None else d
                for (_, _, d, *_), (_, shape, _) in zip(blocks, ctx.shapes, strict=True)
            ]
            along = along + 0.5 * (1 - relative) * rho.sigmoid() * cells.of_parameters(drho)
        return cells.mean(along / variance)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * len(ctx.needs_input_grad)
        cells: Cells = ctx.cells
        (*kept, rho, variance, error, relative), by_inputs = ctx.saved_tensors, list[Tensor | None]()
        by_error = (g[cells.pair] * cells.share).div_(variance)  # dL / d(square / 2)
        by_rho = torch.sigmoid(rho).mul_(by_error).mul_(1 - relative).div_(2)
        of_blocks = cells.of_blocks(
            torch.stack([by_error, by_error if ctx.scale is None else by_error * ctx.scale, error, by_error * error, by_rho])
        )
        wanted_by_block = _by_block(cells, ctx.needs_input_grad[3:])
        for block, (of_weight, of_cells, rows), (weight, zt, x_mean, slope), of_block, (_, _, _, _, *wanted) in zip(
            cells.blocks, ctx.shapes, _kept_by_block(kept), of_blocks, wanted_by_block, strict=True
        ):
            plain, scaled, e = of_block[:3].index_select(1, block.owner)  # each (J, C)
            by_inputs.append(_within(of_weight, block.in_weight, torch.addcmul(slope, e, x_mean).mul_(plain)))
            by_inputs += [_within(of_cells, block.in_cells, by) for by in of_block[3:]]
            by_inputs.append(None)
            if not any(wanted):
                by_inputs += [None] * len(wanted)
                continue
            into_x = (scaled * weight).div_(len(zt))
            within = (into_x @ weight.t()).mul_(block.same)
            by_x = _linear(zt, torch.cat([within, -into_x], 1), (into_x * e).sum(1))
            by_inputs += by_x.unflatten(0, rows).split(block.student, 2)
        return None, None, None, *by_inputs


class _Kept(NamedTuple):
    """Of a block: weight (J, C), x and target about their means (B * N, J + C), the mean of x (J, 1), half of d square / dW."""

    weight: Tensor
    zt: Tensor
    x_mean: Tensor
    slope: Tensor


def _kept_by_block(kept: Sequence[Tensor]) -> Iterator[_Kept]:
    count = len(_Kept._fields)
    return (_Kept(*kept[i : i + count]) for i in range(0, len(kept), count))


def _by_block(cells: Cells, inputs: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Of each block what belongs to its `BlockInputs`."""
    start = 0
    for block in cells.blocks:
        end = start + 4 + len(block.student)
        yield inputs[start:end]
        start = end


def _moments(x: Tensor, zt: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, J), (rows, J + C) -> the means of x with z, (J, J), and with t, (J, C)."""
    product = (x.t() @ zt).div_(len(x))  # the wide one across: with few columns some processors add up row by row
    return product[:, : x.shape[1]], product[:, x.shape[1] :]


def _linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear`. Of many rows, on a CPU, it is a convolution of 1 x 1: where they are short, oneDNN takes a half to a third of
    the time that MKL does. Torch hands it those of several images alone."""
    if rows.device.type != "cpu" or len(rows) < MANY:
        return F.linear(rows, weight, bias)
    images = rows.unflatten(0, (gcd(len(rows), 16), -1, 1)).permute(0, 3, 1, 2)
    return F.conv2d(images, weight[:, :, None, None], bias).permute(0, 2, 3, 1).flatten(0, 2)


def _key(rows: Where, columns: Where) -> tuple[slice | Tensor, slice | Tensor] | None:
    """What selects both of a matrix; None: all of it."""
    if rows is None and columns is None:
        return None
    if isinstance(rows, Tensor) and isinstance(columns, Tensor):
        return rows.unsqueeze(1), columns
    return slice(None) if rows is None else rows, slice(None) if columns is None else columns


def _within(shape: torch.Size, key: tuple[slice | Tensor, slice | Tensor] | None, part: Tensor) -> Tensor:
    """The part, where it was selected from; 0 around it."""
    if key is None:
        return part
    whole = part.new_zeros(shape)
    whole[key] = part
    return whole


def gaussian_means(cells: Cells, inputs: Sequence[BlockInputs], floor: float, scale: Tensor | None = None) -> Tensor:
    """The mean of `gaussian_nll(scaled_linear(x_s, weight_s, bias_s, scale_s), target_t, variance_s)` of each pair.

    scale    (cells,), None for 1
    returns  (pairs,); forward mode knows no scale
    """
    flat = [tensor for of_block in inputs for tensor in (*of_block[:-1], *of_block.x)]
    return _GaussianMeans.apply(cells, floor, scale, *flat)  # type: ignore[no-any-return]
