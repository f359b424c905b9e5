"""Pair losses without a regressor: a summary of each feature, made once, and a distance of each two summaries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_hpo.core.gradient_scaling import scaled_identity
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.normalisation import inverse_norm, unit_rows
from kd_hpo.core.plan import Group, LayerShape, PairPlan, Size

_LOG_EPSILON = 1e-7
_DISTANCE_EPSILON = 1e-6
"""Under the root of a distance: two rows that are the same then have a finite slope."""


# Summaries of a feature at N positions, (B, N, C) -> (B, M), the same M for both features of a pair -------------------------


def attention_map(rows: Tensor) -> Tensor:
    """The mean of h^2 over channels, of L2 norm 1: (B, N, C) -> (B, N)."""
    return unit_rows(rows.square().mean(2))


def similarities(rows: Tensor) -> Tensor:
    """The inner products of each example with the batch, itself included, of L2 norm 1: (B, N, C) -> (B, B)."""
    return unit_rows(_gram(rows))


def cosine_distribution(rows: Tensor) -> Tensor:
    """The values (cos + 1) / 2 of each example with the batch, itself included, of sum 1: (B, N, C) -> (B, B)."""
    return _cosine_rows(_gram(rows))


def flow_distributions(rows: Tensor) -> Tensor:
    """The cosine distribution, and that of Student's t kernel, 1 / (1 + distance): (B, N, C) -> (B, 2 B)."""
    gram = _gram(rows)
    squared = gram.diagonal()
    squared_distance = (squared.unsqueeze(1) + squared - 2 * gram).clamp_min(0)
    student_t = 1 / (1 + (squared_distance + _DISTANCE_EPSILON).sqrt())
    return torch.cat([_cosine_rows(gram), student_t / student_t.sum(1, keepdim=True)], 1)


def _gram(rows: Tensor) -> Tensor:
    # The order of an example's elements does not count: a student's positions lie next to each other, and stay so uncopied.
    flat = rows.flatten(1) if rows.stride(2) == 1 else rows.transpose(1, 2).flatten(1)
    return flat @ flat.t()


def _cosine_rows(gram: Tensor) -> Tensor:
    inverse = inverse_norm(gram.diagonal())
    kernel = ((gram * inverse.unsqueeze(1) * inverse + 1) / 2).clamp_min(0)  # rounding leads below a cosine of -1
    return kernel / kernel.sum(1, keepdim=True)


# Distances of two summaries, (B, ..., M) -> (B, ...) ---------------------------------------------------------------------------


def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean(-1)


def mean_kullback_leibler(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of the terms of KL(teacher || student): (..., M) -> (...)."""
    return (teacher * _log_ratio(teacher, student)).mean(-1)


def flow_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of the terms of KL(teacher || student) + KL(student || teacher), added over both kernels: (..., M) -> (...)."""
    return 2 * ((teacher - student) * _log_ratio(teacher, student)).mean(-1)


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    return (a + _LOG_EPSILON).log() - (b + _LOG_EPSILON).log()


# Losses ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A pair loss from two pure functions; see kd_hpo.core.pair_losses.PairLoss.

    summary   of a feature (B, N, C) at N positions -> (B, M), the same M for both features of a pair
    distance  of the student's (B, 1, M) and the teachers' (B, P, M) summaries -> (B, P)
    """

    summary: Callable[[Tensor], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    meet: bool = False
    """Whether both features are first averaged to the smaller height and width."""
    positions: bool = False
    """Whether it compares positions, so that it needs more than one."""
    standardised: bool = False

    def serves(self, teacher: LayerShape, student: LayerShape, size: Size) -> str | None:
        return "they meet at one position, and it compares positions" if self.positions and size == (1, 1) else None

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return Comparisons(plan, self.summary, self.distance)


def attention() -> Comparison:
    """Attention transfer (Zagoruyko & Komodakis 2017), as the mean over positions of the squared difference of two maps."""
    return Comparison(attention_map, mean_square, meet=True, positions=True)


def similarity() -> Comparison:
    """Similarity-preserving distillation (Tung & Mori 2019): the mean squared difference of the B x B similarities."""
    return Comparison(similarities, mean_square)


def pkt() -> Comparison:
    """Probabilistic knowledge transfer (Passalis & Tefas 2018): KL of the B x B cosine distributions, the mean of its terms.

    A map is flattened: where its features stand is part of what two examples have in common.
    """
    return Comparison(cosine_distribution, mean_kullback_leibler)


def information_flow() -> Comparison:
    """Heterogeneous distillation (Passalis et al. 2020): Jeffreys divergence by the cosine plus that by Student's t kernel.

    Each is the mean of its B x B terms. A map is flattened, as the authors' code does.
    """
    return Comparison(flow_distributions, flow_divergence)


# Module ----------------------------------------------------------------------------------------------------------------------


class Comparisons(nn.Module):
    """The pairs of a plan, compared by T + S summaries where layers stay apart, else by one for each layer and resolution."""

    def __init__(self, plan: PairPlan, summary: Callable[[Tensor], Tensor], distance: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.plan, self.summary, self.distance = plan, summary, distance

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        teacher, student = self._teacher(blocks), self._student(features)
        parts = []
        for group, of_group in zip(self.plan.groups, weights, strict=True):
            stacked = torch.stack([teacher[t, group.size] for t in group.teachers], 1)
            losses = self.distance(student[self._place(group)].unsqueeze(1), stacked)
            parts.append(losses if of_group is None else scaled_identity(losses, of_group))
        return parts

    def _teacher(self, blocks: Mapping[Size, Tensor]) -> dict[tuple[int, Size], Tensor]:
        found = {}
        for size in self.plan.sizes:
            layers = self.plan.blocks[size]
            parts = blocks[size].detach().split([self.plan.teacher[t].channels for t in layers], dim=2)
            found.update({(t, size): self.summary(part) for t, part in zip(layers, parts, strict=True)})
        return found

    def _student(self, features: Sequence[Tensor]) -> dict[tuple[int, Size], Tensor]:
        places = dict.fromkeys(map(self._place, self.plan.groups))
        return {(s, size): self.summary(pooled(as_map(features[s], self.plan.student[s]), size)) for s, size in places}

    def _place(self, group: Group) -> tuple[int, Size]:
        """The student layer and the resolution at which it is summed up."""
        layer = self.plan.student[group.student]
        return group.student, group.size if self.plan.meet else (layer.height, layer.width)
