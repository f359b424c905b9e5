"""Hints by regressors of three convolutions, one for each pair."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.gaussian.formula import uniform_weight
from kd_hpo.core.gradient_scaling import scaled_identity
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.normalisation import batch_normalised
from kd_hpo.core.plan import PairPlan, Size


class ConvolutionalHints(nn.Module):
    """The mean squared error of each pair's own regressor: 1x1-BN-ReLU, 3x3-BN-ReLU, 1x1 (Chen et al. 2021)."""

    def __init__(self, plan: PairPlan, *, relu: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.plan, self.relu = plan, relu
        self.regressors = nn.ModuleDict()
        for group in plan.groups:
            for t in group.teachers:
                inside, outside = plan.student[group.student].channels, plan.teacher[t].channels
                self.regressors[f"{t}-{group.student}"] = _Regressor(inside, outside, group.size, generator)

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        parts = []
        for group, of_group in zip(self.plan.groups, weights, strict=True):
            rows = pooled(as_map(features[group.student], self.plan.student[group.student]), group.size)
            channels = self.plan.channels_of(group)
            block, start, losses = blocks[group.size][..., list(channels)].detach(), 0, []
            for place, t in enumerate(group.teachers):
                target = block[..., start : start + self.plan.teacher[t].channels]
                start += self.plan.teacher[t].channels
                own = rows if of_group is None else scaled_identity(rows, of_group[..., place, None, None])
                hint = self.regressors[f"{t}-{group.student}"](own)
                losses.append(((F.relu(hint) if self.relu else hint) - target).square().mean((1, 2)))
            parts.append(torch.stack(losses, 1))
        return parts


class _Regressor(nn.Module):
    def __init__(self, inside: int, outside: int, size: Size, generator: torch.Generator) -> None:
        super().__init__()
        self.size, wide = size, 2 * outside
        self.reduce = nn.Parameter(uniform_weight(wide, inside, generator))
        self.around = nn.Parameter(uniform_weight(wide, 9 * wide, generator).view(wide, wide, 3, 3))
        self.give = nn.Parameter(uniform_weight(outside, wide, generator))
        self.gains = nn.ParameterList(nn.Parameter(torch.ones(wide)) for _ in range(2))
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(wide)) for _ in range(2))

    def forward(self, rows: Tensor) -> Tensor:  # (B, N, C_s) -> (B, N, C_t)
        first = F.relu(batch_normalised(F.linear(rows, self.reduce), self.gains[0], self.shifts[0]))
        maps = F.conv2d(first.transpose(1, 2).unflatten(2, self.size), self.around, padding=1)
        second = F.relu(batch_normalised(maps.flatten(2).transpose(1, 2), self.gains[1], self.shifts[1]))
        return F.linear(second, self.give)
