"""Exits at the student's layers: small heads that learn from the teacher's logits and the labels, as the student's own does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kd_hpo.core.gaussian.formula import uniform_weight
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.logit_losses import target_enhanced
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.plan import Group, LayerShape, PairPlan, Size
from kd_hpo.core.targets import Targets

LOGITS = "logits"
"""The name of the teacher's own output as a layer."""


@dataclass(frozen=True)
class Exit:
    """The loss of OFA at a linear head on a student layer's mean over positions (OFA, Hao et al. 2023, eq. 6).

    It compares with the teacher's logits, and reads labels: other layers of the teacher are not served.
    """

    temperature: float = 1.0
    power: float = 1.5
    meet: ClassVar[bool] = True
    standardised: ClassVar[bool] = False

    def serves(self, teacher: LayerShape, student: LayerShape, size: Size) -> str | None:
        return None if teacher.name == LOGITS else "an exit learns from the teacher's logits alone (pairs.logits: inside)"

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return Exits(self, plan, generator)


class Exits(nn.Module):
    """A head for each student layer that is paired with the teacher's logits."""

    def __init__(self, loss: Exit, plan: PairPlan, generator: torch.Generator) -> None:
        super().__init__()
        self.loss, self.plan, self.heads = loss, plan, nn.ModuleDict()
        for group in plan.groups:
            if (t := self._logits(group)) is not None:
                channels = plan.student[group.student].channels
                self.heads[str(group.student)] = _Head(plan.teacher[t].channels, channels, generator)

    def of_targets(self, features: Sequence[Tensor], targets: Targets, weights: Sequence[Tensor | None]) -> list[Tensor]:
        """The losses (B', pairs) of each group; those of pairs that are not served are 0."""
        parts = zip(self.plan.groups, weights, strict=True)
        return [self._of_group(group, features[group.student], targets, of_group) for group, of_group in parts]

    def _of_group(self, group: Group, feature: Tensor, targets: Targets, weights: Tensor | None) -> Tensor:
        t = self._logits(group)
        losses = feature.flatten(1)[:, :0].sum(1, keepdim=True).expand(-1, len(group.teachers))  # zeros, through the feature
        if t is None:
            return losses
        assert targets.shares is not None
        place = group.teachers.index(t)
        channels = self.plan.channels_of(group)
        before = sum(self.plan.teacher[other].channels for other in group.teachers[:place])
        span = slice(channels[before], channels[before] + self.plan.teacher[t].channels)
        rows = pooled(as_map(feature, self.plan.student[group.student]), (1, 1)).squeeze(1)
        student = self.heads[str(group.student)](rows, None if weights is None else weights[..., place])
        teacher, shares = targets.blocks[group.size][:, 0, span], targets.shares[: len(feature)]
        loss = target_enhanced(student, teacher, shares.to(student), self.loss.temperature, self.loss.power)
        return torch.cat([losses[:, :place], loss.unsqueeze(1), losses[:, place + 1 :]], 1)

    def _logits(self, group: Group) -> int | None:
        return next((t for t in group.teachers if self.plan.teacher[t].name == LOGITS), None)


class _Head(nn.Module):
    def __init__(self, classes: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(uniform_weight(classes, channels, generator))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, rows: Tensor, scale: Tensor | None) -> Tensor:  # (B, C) -> (B, K)
        if scale is None:
            return nn.functional.linear(rows, self.weight, self.bias)
        of_outputs = scale.unsqueeze(-1).expand(*scale.shape, len(self.weight))
        return scaled_linear(rows, self.weight, self.bias, of_outputs)
