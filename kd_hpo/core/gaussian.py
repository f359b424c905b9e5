"""Minus a variational lower bound of mutual information, with a Gaussian: formulas, and linear regressors of all pairs."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.gaussian_means import gaussian_means
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.plan import Group, PairPlan, Size

# Formulas --------------------------------------------------------------------------------------------------------------------


def gaussian_nll(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    """Minus the log density of a Gaussian q(h_t | h_s), without its constant (VID, Ahn et al. 2019, eq. 5).

    mean      (B, N, C)  the regressor's prediction of the teacher's channels at N positions, from the student
    target    (B, N, C)  the teacher's channels, a constant
    variance  (C,)       of each teacher channel
    returns   (B, C)     nats an element, the mean over positions; unlimited below as the variance goes to 0, hence its floor
    """
    # The variance is the same at all positions: averaging squares first spares two passes over (B, N, C).
    square = (mean - target.detach()).square().mean(1)
    return 0.5 * (square / variance + variance.log())


def softplus_variance(rho: Tensor, floor: float) -> Tensor:
    """The variance that a free parameter stands for; the floor bounds the loss from below."""
    variance: Tensor = F.softplus(rho) + floor
    return variance


def inverse_softplus(value: float) -> float:
    """rho with softplus(rho) = value, for value > 0."""
    return value + math.log(-math.expm1(-value))


def uniform_weight(fan_out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """(fan_out, fan_in), torch's own start of a linear map."""
    bound = math.sqrt(1 / fan_in)
    return (torch.rand(fan_out, fan_in, generator=generator) * 2 - 1) * bound


# Modules ---------------------------------------------------------------------------------------------------------------------

Wanted = tuple[tuple[bool, ...], ...]
"""Which pairs of T x S are wanted."""

WIDEST = 256
"""Channels of the student in a block of several layers: the second moments in it are of each channel with each."""

PARTS = 8
"""How many choices of pairs a block keeps what it has worked out for."""


class LinearGaussian(nn.Module):
    """The pairs of a plan, each with a linear map and variances of its own, in blocks that are computed together."""

    cells: Tensor

    def __init__(self, plan: PairPlan, *, start: float, learned: bool, floor: float, generator: torch.Generator) -> None:
        super().__init__()
        self.plan = plan
        packed = list(_packed(plan))
        self.blocks = nn.ModuleList(GaussianBlock(plan, groups, start, learned, floor) for groups in packed)
        self.places = [
            (i, s) for group in plan.groups for i, groups in enumerate(packed) for s, g in enumerate(groups) if g == group
        ]
        starts, cells = [0], []
        for block in self._all():
            starts.append(starts[-1] + block.members.shape[1] * block.layers.shape[1])
        for i, s in self.places:
            block = self._block(i)
            block.start_layer(s, generator)  # in the plan's order, so that packing changes no start
            cells += [starts[i] + cell for cell in block.cells_of(s)]
        self.register_buffer("cells", torch.tensor(cells, dtype=torch.long), persistent=False)

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """See kd_hpo.core.pair_losses.PairLoss."""
        parts = zip(self.places, self.plan.groups, weights, strict=True)
        return [self._block(i).sample_losses(s, features[g.student], blocks[g.size], w) for (i, s), g, w in parts]

    def means(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Tensor | None, needed: Tensor | None
    ) -> Tensor:
        """See kd_hpo.core.pair_losses.BatchMeans."""
        if weights is None and torch.is_grad_enabled():  # the plain losses may be differentiated twice
            return torch.cat(self(features, blocks, [None] * len(self.places)), 1).mean(0)
        wanted = None if needed is None else tuple(map(tuple, needed.tolist()))
        cells = [block.means(features, blocks, weights, wanted).flatten() for block in self._all()]
        return torch.cat(cells).index_select(0, self.cells)

    def of_pair(self, t: int, s: int) -> tuple[Tensor, Tensor, Tensor]:
        """weight (C_t, C_s), bias (C_t,) and rho (C_t,)"""
        at = next(i for i, group in enumerate(self.plan.groups) if group.student == s and t in group.teachers)
        i, place = self.places[at]
        return self._block(i).regressor(place, [t])

    def _all(self) -> Iterator["GaussianBlock"]:
        return (self._block(i) for i in range(len(self.blocks)))

    def _block(self, i: int) -> "GaussianBlock":
        block = self.blocks[i]
        assert isinstance(block, GaussianBlock)
        return block


class GaussianBlock(nn.Module):
    """Some layers of the student at one resolution, and all those of the teacher that any of them is compared with there.

    weight (C, J) leads from all channels of the student to all of the teacher; bias and rho (C, S) are of each channel of the
    teacher as each layer of the student predicts it. What belongs to no pair stays 0.
    """

    rho: Tensor
    weight: nn.Parameter
    bias: nn.Parameter
    members: Tensor
    layers: Tensor
    pairs: Tensor

    def __init__(self, plan: PairPlan, groups: Sequence[Group], start: float, learned: bool, floor: float) -> None:
        super().__init__()
        self.plan, self.groups, self.size, self.floor = plan, groups, groups[0].size, floor if learned else 0.0
        self.student = [plan.student[g.student] for g in groups]
        self.teachers = [t for t in plan.blocks[self.size] if any(t in g.teachers for g in groups)]
        channels, widths = [plan.teacher[t].channels for t in self.teachers], [layer.channels for layer in self.student]
        self.rows, self.columns = _spans(channels), _spans(widths)
        self.positions = _index(plan.channels_of(Group(0, self.size, tuple(self.teachers))))
        self.weight = nn.Parameter(torch.zeros(sum(channels), sum(widths)))
        self.bias = nn.Parameter(torch.zeros(sum(channels), len(groups)))
        rho = torch.full((sum(channels), len(groups)), inverse_softplus(start - self.floor))
        if learned:
            self.rho = nn.Parameter(rho)
        else:
            self.register_buffer("rho", rho)
        # (C, T) and (J, S), 1 where a channel is the layer's; (C, S), the pair's cell in the matrix of all pairs.
        self.register_buffer("members", torch.block_diag(*(torch.ones(c, 1) for c in channels)), persistent=False)
        self.register_buffer("layers", torch.block_diag(*(torch.ones(w, 1) for w in widths)), persistent=False)
        of_channels = torch.tensor(self.teachers).repeat_interleave(torch.tensor(channels)).unsqueeze(1)
        of_layers = torch.tensor([g.student for g in groups])
        self.register_buffer("pairs", of_channels * plan.shape[1] + of_layers, persistent=False)
        self._parts: dict[tuple[Wanted | None, torch.device, torch.dtype], _Part] = {}

    def start_layer(self, s: int, generator: torch.Generator) -> None:
        """As torch starts a linear map from the layer to all its teachers."""
        rows, columns = self._rows(self.groups[s].teachers), self.columns[s]
        with torch.no_grad():
            start = uniform_weight(len(rows), columns.stop - columns.start, generator)
            self.weight[rows, columns] = start.to(self.weight)

    def cells_of(self, s: int) -> list[int]:
        """Where the pairs of a student layer stand in `means`, flat."""
        return [self.teachers.index(t) * len(self.groups) + s for t in self.groups[s].teachers]

    def regressor(self, s: int, teachers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """weight (C, C_s), bias (C,) and rho (C,) from a student layer to the channels of some teachers."""
        rows = _index(self._rows(teachers))
        return self.weight[rows, self.columns[s]], self.bias[rows, s], self.rho[rows, s]

    def sample_losses(self, s: int, feature: Tensor, block: Tensor, weights: Tensor | None) -> Tensor:
        """(B, pairs) of one student layer, weights None, (pairs,) or (B, pairs)."""
        group = self.groups[s]
        weight, bias, rho = self.regressor(s, group.teachers)
        x, target = (
            pooled(as_map(feature, self.student[s]), self.size),
            self.target(block)[..., _index(self._rows(group.teachers))],
        )
        counts = [self.rows[self.teachers.index(t)] for t in group.teachers]
        of_channel = torch.tensor([i for i, span in enumerate(counts) for _ in range(span.start, span.stop)], device=x.device)
        if weights is None:
            mean = F.linear(x, weight, bias)
        else:
            scale = weights.index_select(-1, of_channel)
            mean = scaled_linear(x, weight, bias, scale if scale.dim() == 1 else scale.unsqueeze(1))
        nll = gaussian_nll(mean, target, softplus_variance(rho, self.floor))
        members = F.one_hot(of_channel, len(counts)).to(nll)
        return nll @ (members / members.sum(0))

    def means(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Tensor | None, wanted: Wanted | None
    ) -> Tensor:
        """(T, S) of the block's layers, of pairs that are not compared too; weights None or of all pairs (T, S)."""
        part = self._part(wanted)
        if not part.students:
            return self.weight.new_zeros(part.shape)
        if _wide(self.plan, self.groups[0]):
            of_group = None if weights is None else weights[self.teachers, self.groups[0].student]
            return self.sample_losses(0, features[self.groups[0].student], blocks[self.size], of_group).mean(0).unsqueeze(1)
        x = torch.cat([pooled(as_map(features[self.groups[s].student], self.student[s]), self.size) for s in part.students], 2)
        target = _at(self.target(blocks[self.size]), 2, part.rows)
        weight, bias, rho = _at(self.weight, 1, part.columns), _at(self.bias, 1, part.layer), _at(self.rho, 1, part.layer)
        weight, bias, rho = (_at(of_channels, 0, part.rows) for of_channels in (weight, bias, rho))
        variance = softplus_variance(rho, self.floor)
        scale = torch.ones_like(variance) if weights is None else weights.take(part.cells)
        return part.in_place(gaussian_means(x, weight, bias, variance, target, part.shares, part.layers, part.same, scale))

    def _part(self, wanted: Wanted | None) -> "_Part":
        """Worked out once, and not at every step."""
        key = wanted, self.weight.device, self.weight.dtype
        if key not in self._parts:
            if len(self._parts) == PARTS:  # lambda moves: those of before are not asked for again
                self._parts.clear()
            self._parts[key] = _Part(self, wanted)
        return self._parts[key]

    def target(self, block: Tensor) -> Tensor:
        """(B, N, C'), the teacher at the resolution -> (B, N, C)"""
        return block[..., self.positions]

    def _rows(self, teachers: Sequence[int]) -> list[int]:
        spans = (self.rows[self.teachers.index(t)] for t in teachers)
        return [row for span in spans for row in range(span.start, span.stop)]


class _Part:
    """What a block computes: all of its layers, or those that have a pair which is wanted.

    students  the places of those layers of the student
    rows, columns, layer  where their teachers' channels, their own channels, and they themselves stand in the block; None: all
    """

    def __init__(self, block: GaussianBlock, wanted: Wanted | None) -> None:
        groups, teachers, device = block.groups, block.teachers, block.weight.device
        self.shape = len(teachers), len(groups)
        self.students = [s for s, g in enumerate(groups) if wanted is None or any(wanted[t][g.student] for t in g.teachers)]
        of_students = [groups[s].student for s in self.students]
        taught = [i for i, t in enumerate(teachers) if wanted is None or any(wanted[t][s] for s in of_students)]
        columns = [c for s in self.students for c in range(block.columns[s].start, block.columns[s].stop)]
        rows = [row for i in taught for row in range(block.rows[i].start, block.rows[i].stop)]
        self.rows, self.columns = _where(rows, len(block.members), device), _where(columns, len(block.layers), device)
        teacher, self.layer = _where(taught, len(teachers), device), _where(self.students, len(groups), device)
        members = _at(_at(block.members, 0, self.rows), 1, teacher)
        self.shares = members / members.sum(0)
        self.layers = _at(_at(block.layers, 0, self.columns), 1, self.layer)
        self.same = self.layers @ self.layers.t()
        self.cells = _at(_at(block.pairs, 0, self.rows), 1, self.layer)
        places = [i * len(groups) + s for i in taught for s in self.students]
        self._places = None if len(places) == len(teachers) * len(groups) else torch.tensor(places, device=device)

    def in_place(self, means: Tensor) -> Tensor:
        """That of the layers which are computed -> (T, S) of the block's, 0 elsewhere."""
        if self._places is None:
            return means
        return means.new_zeros(self.shape).flatten().index_copy(0, self._places, means.flatten()).view(self.shape)


def _where(positions: Sequence[int], of: int, device: torch.device) -> slice | Tensor | None:
    """What selects them: nothing where they are all, no copy where they stand side by side."""
    if len(positions) == of or not positions:
        return None
    index = _index(positions)
    return index if isinstance(index, slice) else torch.tensor(index, device=device)


def _at(x: Tensor, dim: int, where: slice | Tensor | None) -> Tensor:
    if where is None:
        return x
    return x.index_select(dim, where) if isinstance(where, Tensor) else x.narrow(dim, where.start, where.stop - where.start)


def _packed(plan: PairPlan) -> Iterator[list[Group]]:
    """The plan's groups in blocks of one resolution, of at most WIDEST channels unless one layer alone has more."""
    for size in sorted(plan.sizes, reverse=True):
        at_size = [group for group in plan.groups if group.size == size]
        yield from ([group] for group in at_size if _wide(plan, group))
        block: list[Group] = []
        for group in (group for group in at_size if not _wide(plan, group)):
            if block and sum(plan.student[g.student].channels for g in (*block, group)) > WIDEST:
                yield block
                block = []
            block.append(group)
        if block:
            yield block


def _wide(plan: PairPlan, group: Group) -> bool:
    """Whether the second moments of the student layer are more work than its predictions."""
    return plan.student[group.student].channels > sum(plan.teacher[t].channels for t in group.teachers)


def _spans(lengths: Sequence[int]) -> list[slice]:
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _index(positions: Sequence[int]) -> slice | list[int]:
    """What selects them, without a copy where they stand side by side."""
    if list(positions) == list(range(positions[0], positions[0] + len(positions))):
        return slice(positions[0], positions[0] + len(positions))
    return list(positions)
