"""What a frozen teacher gives of a batch as pairs compare it: the channels that vary, standardised, at each resolution."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.pairs import Targets
from kd_hpo.core.plan import LayerShape, PairPlan, Size
from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import FeatureTap, evaluating
from kd_hpo.nets.precision import Precision

Output = str | int | None


@dataclass(frozen=True)
class TeacherView:
    """Runs a frozen teacher, and brings each channel to mean 0 and deviation 1 over what it was measured on.

    Standardised, a nat means the same in every pair; a channel that never varies is left out, since it would pay without
    bound for a constant. Losses that compare features as they are read them with mean 0 and deviation 1 in `statistics`.
    """

    network: nn.Module
    shapes: tuple[LayerShape, ...]
    """Of the layers as the network gives them."""
    plan: PairPlan
    """Of the channels that are read."""
    channels: tuple[Tensor, ...]
    """Of each layer, the channels that are read."""
    statistics: dict[Size, Tensor]
    """(2, C) for each resolution: mean and deviation of its channels."""
    precision: Precision
    output: Output = None
    """Which of the tensors that the network returns is its output, where it returns more than one."""

    @classmethod
    def as_it_is(
        cls, network: nn.Module, shapes: Sequence[LayerShape], plan: PairPlan, precision: Precision, output: Output = None
    ) -> Self:
        """Makes a view of every channel, none of them standardised."""
        every = tuple(torch.arange(s.channels, device=precision.device) for s in shapes)
        plain = {
            size: torch.tensor([[0.0], [1.0]], device=precision.device).expand(2, sum(shapes[t].channels for t in wanted))
            for size, wanted in plan.blocks.items()
        }
        return cls(network, tuple(shapes), plan, every, plain, precision, output)

    def read(self, x: Any, sizes: Collection[Size], compared: int | None = None) -> Targets:
        """Gives the targets of inputs x, with features at these of the plan's resolutions, of the first `compared` examples."""
        wanted = {size: layers for size, layers in self.plan.blocks.items() if size in sizes}
        logits, rows = read_teacher(self.network, self.shapes, self.channels, wanted, x, self.precision, compared, self.output)
        blocks = {size: (block - self.statistics[size][0]) / self.statistics[size][1] for size, block in rows.items()}
        return Targets(logits, blocks)

    def read_logits(self, x: Any) -> Tensor:
        """Gives the logits (B, K) alone."""
        return read_teacher(self.network, (), (), {}, x, self.precision, output=self.output)[0]


def read_teacher(
    network: nn.Module,
    shapes: Sequence[LayerShape],
    channels: Sequence[Tensor],
    blocks: Mapping[Size, tuple[int, ...]],
    x: Any,
    precision: Precision,
    compared: int | None = None,
    output: Output = None,
) -> tuple[Tensor, dict[Size, Tensor]]:
    """Reads what a teacher gives: logits (B, K) and, of the first `compared`, the wanted layers' features.

    Features are (compared, h * w, C) for each resolution, the channels of the layers side by side.
    """
    layers = [s.name for s in shapes]
    with FeatureTap(network, layers, output) as tap, evaluating(network), torch.no_grad(), precision.autocast():
        logits, features = tap(x)
    maps = [as_map(f, s)[:compared, c].to(precision.dtype) for f, s, c in zip(features, shapes, channels, strict=True)]
    rows = {size: torch.cat([pooled(maps[t], size) for t in wanted], 2) for size, wanted in blocks.items()}
    return logits.to(precision.dtype), rows


def measured(
    network: nn.Module,
    shapes: Sequence[LayerShape],
    plan: PairPlan,
    inputs: Iterable[Any],
    precision: Precision,
    output: Output = None,
    *,
    on: str = "the train split",
) -> tuple[list[Tensor], dict[Size, Tensor]]:
    """Tells which channels vary over the inputs, bool (C,) a layer, and mean and deviation (2, C') of those that do.

    Mean and deviation are over examples and positions, at each resolution of the plan.
    Raises FeatureMismatch for a layer that never varies.
    """
    every = [torch.arange(s.channels, device=precision.device) for s in shapes]
    sums: dict[Size, Tensor] = {}
    lows: dict[Size, Tensor] = {}
    highs: dict[Size, Tensor] = {}
    examples = 0
    for x in inputs:
        logits, rows = read_teacher(network, shapes, every, plan.blocks, x, precision, output=output)
        examples += len(logits)
        for size, block in rows.items():
            values, low, high = block.double(), block.amin((0, 1)), block.amax((0, 1))
            sums[size] = sums.get(size, 0) + torch.stack([values.sum((0, 1)), values.square().sum((0, 1))])
            lows[size] = torch.minimum(lows.get(size, low), low)
            highs[size] = torch.maximum(highs.get(size, high), high)
    varies = [torch.ones(s.channels, dtype=torch.bool, device=precision.device) for s in shapes]
    for size, wanted in plan.blocks.items():
        ranges = (highs[size] - lows[size]).split([shapes[t].channels for t in wanted])
        for t, span in zip(wanted, ranges, strict=True):
            varies[t] &= span > 1e-5 * span.max()
    for shape, live in zip(shapes, varies, strict=True):
        if not live.any():
            raise FeatureMismatch(f"teacher layer {shape} never varies on {on}; leave it out of teacher.layers")
    statistics = {}
    for size, (total, squares) in sums.items():
        count = examples * size[0] * size[1]
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
        live = torch.cat([varies[t] for t in plan.blocks[size]])
        statistics[size] = torch.stack([mean, deviation])[:, live].to(precision.dtype)
    return varies, statistics
