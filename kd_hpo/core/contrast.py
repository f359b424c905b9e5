"""Contrastive distillation: an image's two embeddings against those of other images that a memory keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.gaussian.formula import uniform_weight
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.normalisation import unit_rows
from kd_hpo.core.plan import LayerShape, PairPlan, Size
from kd_hpo.core.targets import Targets

_EPSILON = 1e-7


@dataclass(frozen=True)
class Contrast:
    """Noise-contrastive loss of an image's embeddings by student and teacher (CRD, Tian et al. 2020, eq. 18-19 and appendix).

    Each is told from those of `negatives` images of other classes, which a memory of all training images keeps: there are two for
    a pair, of `width` numbers an image. They move towards a step's embeddings after it, keeping the share `momentum`.
    """

    negatives: int = 16_384
    temperature: float = 0.07
    momentum: float = 0.5
    width: int = 128
    meet: ClassVar[bool] = True
    standardised: ClassVar[bool] = False

    def serves(self, teacher: LayerShape, student: LayerShape, size: Size) -> str | None:
        return None

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return Contrasts(self, plan, generator)


class Contrasts(nn.Module):
    """The embeddings of a plan's pairs, and their memories."""

    def __init__(self, loss: Contrast, plan: PairPlan, generator: torch.Generator) -> None:
        super().__init__()
        self.loss, self.plan, self.negatives = loss, plan, loss.negatives
        self.pairs = nn.ModuleDict()
        for group in plan.groups:
            for t in group.teachers:
                layers = plan.student[group.student], plan.teacher[t]
                self.pairs[f"{t}-{group.student}"] = _Pair(loss, layers, plan.examples, generator)

    def of_targets(self, features: Sequence[Tensor], targets: Targets, weights: Sequence[Tensor | None]) -> list[Tensor]:
        """The losses (B', pairs) of each group."""
        parts = []
        for group, of_group in zip(self.plan.groups, weights, strict=True):
            losses = [
                pair.losses(student, teacher, targets, None if of_group is None else of_group[..., place])
                for place, (pair, student, teacher) in enumerate(self._of_group(group.student, group.size, features, targets))
            ]
            parts.append(torch.stack(losses, 1))
        return parts

    @torch.no_grad()
    def remember(self, features: Sequence[Tensor], targets: Targets) -> None:
        """Moves the memories of the batch's images towards its embeddings, and fixes the normalisers at the first batch."""
        for group in self.plan.groups:
            for pair, student, teacher in self._of_group(group.student, group.size, features, targets):
                pair.remember(student, teacher, targets)

    def _of_group(self, s: int, size: Size, features: Sequence[Tensor], targets: Targets) -> list[tuple["_Pair", Tensor, Tensor]]:
        """Each pair with its features, averaged over positions: (B', C_s) and (B', C_t)."""
        (group,) = (g for g in self.plan.groups if (g.student, g.size) == (s, size))
        student = pooled(as_map(features[s], self.plan.student[s]), size).mean(1)
        block = targets.blocks[size][..., list(self.plan.channels_of(group))].detach().mean(1)
        parts = block.split([self.plan.teacher[t].channels for t in group.teachers], dim=1)
        return [(self._pair(t, s), student, teacher) for t, teacher in zip(group.teachers, parts, strict=True)]

    def _pair(self, t: int, s: int) -> "_Pair":
        pair = self.pairs[f"{t}-{s}"]
        assert isinstance(pair, _Pair)
        return pair


class _Pair(nn.Module):
    student_bank: Tensor
    teacher_bank: Tensor
    normalisers: Tensor

    def __init__(self, loss: Contrast, layers: tuple[LayerShape, LayerShape], examples: int, generator: torch.Generator) -> None:
        super().__init__()
        self.loss, self.examples = loss, examples
        self.student, self.teacher = (_Embedding(layer.channels, loss.width, generator) for layer in layers)
        bound = (3 / loss.width) ** 0.5
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, (2 * torch.rand(examples, loss.width, generator=generator) - 1) * bound)
        self.register_buffer("normalisers", torch.zeros(2))

    def losses(self, student: Tensor, teacher: Tensor, targets: Targets, weights: Tensor | None) -> Tensor:
        views = ((self.student(student, weights), self.teacher_bank), (self.teacher(teacher, None), self.student_bank))
        scores = [self._scores(embedding, bank, targets) for embedding, bank in views]
        normalisers = self._normalisers(scores)
        first, second = (self._of_view(each / z) for each, z in zip(scores, normalisers, strict=True))
        return first + second

    def remember(self, student: Tensor, teacher: Tensor, targets: Targets) -> None:
        assert targets.rows is not None
        embeddings = self.student(student, None), self.teacher(teacher, None)
        banks, rows = (self.teacher_bank, self.student_bank), targets.rows[: len(student)]
        scores = [self._scores(embedding, bank, targets) for embedding, bank in zip(embeddings, banks, strict=True)]
        self.normalisers.copy_(torch.stack(self._normalisers(scores)))
        for embedding, bank in zip(embeddings, (self.student_bank, self.teacher_bank), strict=True):
            bank[rows] = unit_rows(self.loss.momentum * bank[rows] + (1 - self.loss.momentum) * embedding.to(bank))

    def _scores(self, embedding: Tensor, bank: Tensor, targets: Targets) -> Tensor:
        """(B', 1 + negatives): exp of each example's inner products with its own memory and those of others, over temperature."""
        assert targets.rows is not None and targets.negatives is not None
        count = len(embedding)
        wanted = torch.cat([targets.rows[:count, None], targets.negatives[:count]], 1)
        return ((embedding @ bank.to(embedding).t()).gather(1, wanted) / self.loss.temperature).exp()

    def _normalisers(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Those that are kept, or before there are any those of this batch, by which its mean score is that of chance."""
        own = torch.stack([each.mean() * self.examples for each in scores])
        return list(torch.where(self.normalisers > 0, self.normalisers.to(own), own))

    def _of_view(self, chances: Tensor) -> Tensor:
        """(B', 1 + negatives) -> (B',): minus the logarithms of the chances that each is told rightly."""
        noise = self.loss.negatives / self.examples
        right = chances[:, 0] / (chances[:, 0] + noise + _EPSILON)
        others = noise / (chances[:, 1:] + noise + _EPSILON)
        return -(right.log() + others.log().sum(1))


class _Embedding(nn.Module):
    """A linear map to unit length."""

    def __init__(self, inside: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(uniform_weight(width, inside, generator))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor, scale: Tensor | None) -> Tensor:  # (B, C) -> (B, width)
        if scale is None:
            return unit_rows(F.linear(rows, self.weight, self.bias))
        of_outputs = scale.unsqueeze(-1).expand(*scale.shape, len(self.weight))
        return unit_rows(scaled_linear(rows, self.weight, self.bias, of_outputs))
