"""ReviewKD: each student layer is fused with the deeper ones before it is compared with the teacher's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.gaussian.formula import uniform_weight
from kd_hpo.core.gradient_scaling import scaled_identity
from kd_hpo.core.maps import as_map, rows_of
from kd_hpo.core.normalisation import batch_normalised
from kd_hpo.core.plan import LayerShape, PairPlan, Size

_WIDEST = 512
"""Channels of the fused maps, or those of the student's last layer where it has fewer."""
_LEVELS = (4, 2, 1)


@dataclass(frozen=True)
class Review:
    """Hierarchical context loss of fused hints (ReviewKD, Chen et al. 2021, eq. 6-8 and section 3.3).

    The hint of a student layer is fused, by two maps of attention, with that of the next deeper layer, which is so itself: a pair
    depends on its own student layer and on all deeper ones.
    """

    meet: ClassVar[bool] = False
    standardised: ClassVar[bool] = False

    def serves(self, teacher: LayerShape, student: LayerShape, size: Size) -> str | None:
        return None

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return ReviewedHints(plan, generator)


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two maps, and of their averages over 4x4, 2x2 and 1x1 parts, each with half the weight.

    student, teacher (B, C, H, W) -> (B,); parts that the map has not more of are left out, and the weights sum to 1.
    """
    total, weight, weights = (student - teacher).square().mean((1, 2, 3)), 1.0, 1.0
    for parts in _LEVELS:
        if parts < min(student.shape[2:]):
            weight /= 2
            a, b = (F.adaptive_avg_pool2d(x, (parts, parts)) for x in (student, teacher))
            total, weights = total + weight * (a - b).square().mean((1, 2, 3)), weights + weight
    return total / weights


class ReviewedHints(nn.Module):
    """The fusion of a plan's student layers, and a 3x3 convolution with BN from there to the teacher's layer for each pair."""

    across_layers: Literal[True] = True

    def __init__(self, plan: PairPlan, generator: torch.Generator) -> None:
        super().__init__()
        self.plan, self.last = plan, len(plan.student) - 1
        wide = min(_WIDEST, plan.student[self.last].channels)
        first = min((group.student for group in plan.groups), default=self.last)
        self.fusions = nn.ModuleDict()
        for s in range(first, len(plan.student)):
            self.fusions[str(s)] = _Fusion(plan.student[s].channels, wide, fused=s < self.last, generator=generator)
        self.heads = nn.ModuleDict()
        for group in plan.groups:
            for t in group.teachers:
                self.heads[f"{t}-{group.student}"] = _Head(wide, plan.teacher[t].channels, generator)

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        maps = {int(s): as_map(features[int(s)], self.plan.student[int(s)]) for s in self.fusions}
        plain = {} if any(of_group is not None for of_group in weights) else self._fused(maps, min(maps))
        parts = []
        for group, of_group in zip(self.plan.groups, weights, strict=True):
            losses, start, channels = [], 0, list(self.plan.channels_of(group))
            block = blocks[group.size][..., channels].detach()
            for place, t in enumerate(group.teachers):
                target = block[..., start : start + self.plan.teacher[t].channels]
                start += self.plan.teacher[t].channels
                fused = plain or self._fused(_scaled(maps, of_group, place), group.student)
                hint = self.heads[f"{t}-{group.student}"](_resized(fused[group.student], group.size))
                losses.append(hierarchical_context(hint, _map_of(target, group.size)))
            parts.append(torch.stack(losses, 1))
        return parts

    def _fused(self, maps: Mapping[int, Tensor], first: int) -> dict[int, Tensor]:
        """The fused maps (B, C, H, W) of the student's layers from `first` on, each at its own size."""
        found: dict[int, Tensor] = {}
        for s in sorted(maps, reverse=True):
            if s >= first:
                found[s] = self.fusions[str(s)](maps[s], found.get(s + 1))
        return found


class _Fusion(nn.Module):
    def __init__(self, inside: int, wide: int, *, fused: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.reduce = nn.Parameter(uniform_weight(wide, inside, generator))
        self.gain, self.shift = nn.Parameter(torch.ones(wide)), nn.Parameter(torch.zeros(wide))
        self.attention = nn.Parameter(uniform_weight(2, 2 * wide, generator)) if fused else None
        self.bias = nn.Parameter(torch.zeros(2)) if fused else None

    def forward(self, own: Tensor, deeper: Tensor | None) -> Tensor:  # (B, C_s, H, W), (B, C, h, w) -> (B, C, H, W)
        size = own.shape[2], own.shape[3]
        x = batch_normalised(F.linear(rows_of(own), self.reduce), self.gain, self.shift)
        if self.attention is not None and deeper is not None:
            y = rows_of(_resized(deeper, size))
            share = F.linear(torch.cat([x, y], 2), self.attention, self.bias).sigmoid()
            x = share[..., :1] * x + share[..., 1:] * y
        return _map_of(x, size)


class _Head(nn.Module):
    def __init__(self, wide: int, outside: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(uniform_weight(outside, 9 * wide, generator).view(outside, wide, 3, 3))
        self.gain, self.shift = nn.Parameter(torch.ones(outside)), nn.Parameter(torch.zeros(outside))

    def forward(self, fused: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C_t, H, W)
        made = F.conv2d(fused, self.weight, padding=1)
        size = made.shape[2], made.shape[3]
        return _map_of(batch_normalised(rows_of(made), self.gain, self.shift), size)


def _map_of(rows: Tensor, size: Size) -> Tensor:  # (B, H * W, C) -> (B, C, H, W)
    maps: Tensor = rows.transpose(1, 2).unflatten(2, size)
    return maps


def _resized(maps: Tensor, size: Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="nearest")


def _scaled(maps: Mapping[int, Tensor], weights: Tensor | None, place: int) -> dict[int, Tensor]:
    """The maps, whose gradients a pair multiplies by its weight: one for all examples, or one each."""
    if weights is None:
        return dict(maps)
    scale = weights[..., place]
    return {s: scaled_identity(x, scale.view(-1, 1, 1, 1) if scale.dim() else scale) for s, x in maps.items()}
