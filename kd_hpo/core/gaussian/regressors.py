"""The Gaussian loss with linear regressors, of all pairs of a plan: a plain reference, and means over a batch done fast."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.gaussian.formula import gaussian_nll, inverse_softplus, softplus_variance, uniform_weight
from kd_hpo.core.gaussian.means import BlockInputs, BlockShape, Cells, Where, gaussian_means
from kd_hpo.core.gaussian.packing import Packed, Wanted, packed
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.plan import PairPlan, Size

PARTS = 8
"""How many choices of pairs are kept worked out."""


class LinearGaussian(nn.Module):
    """The pairs of a plan, each with a linear map and variances of its own, in blocks that are computed together."""

    def __init__(self, plan: PairPlan, *, start: float, learned: bool, floor: float, generator: torch.Generator) -> None:
        super().__init__()
        self.plan, self.floor = plan, floor if learned else 0.0
        self.blocks = nn.ModuleList(GaussianBlock(block, start, learned, floor) for block in packed(plan))
        places = {group: (i, p) for i in range(len(self.blocks)) for p, group in enumerate(self._block(i).packed.groups)}
        self.places = [places[group] for group in plan.groups]
        for i, place in self.places:
            self._block(i).start_layer(place, generator)  # in the plan's order, so that packing changes no start
        self._parts: dict[tuple[Wanted | None, torch.device, torch.dtype], _Part] = {}

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """The losses of all pairs, as kd_hpo.core.pair_losses.PairLoss has them."""
        parts = zip(self.places, weights, strict=True)
        return [self._block(i).sample_losses(place, features, blocks, of_group) for (i, place), of_group in parts]

    def means(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Tensor | None, needed: Tensor | None
    ) -> Tensor:
        """The means of the losses over the batch, as kd_hpo.core.pair_losses.BatchMeans has them."""
        if weights is None and torch.is_grad_enabled():  # the plain losses may be differentiated twice
            return torch.cat(self(features, blocks, [None] * len(self.places)), 1).mean(0)
        part = self._part(None if needed is None else tuple(map(tuple, needed.tolist())))
        found = [part.zero]
        for i in part.wide:
            group = self._block(i).packed.groups[0]
            of_group = None if weights is None else weights[group.teachers, group.student]
            found.append(self._block(i).sample_losses(0, features, blocks, of_group).mean(0))
        if part.choices:
            inputs = [self._block(c.block).inputs(c, features, blocks) for c in part.choices]
            scale = None if weights is None else weights.take(part.pair)
            found.append(gaussian_means(part.cells, inputs, self.floor, scale))
        return torch.cat(found).index_select(0, part.order)

    def resting(self, needed: Tensor) -> dict[nn.Parameter, Tensor]:
        """The numbers that must rest, as kd_hpo.core.pair_losses.SharedParameters has them."""
        found = dict[nn.Parameter, Tensor]()
        for choice in self._part(tuple(map(tuple, needed.tolist()))).choices:
            block = self._block(choice.block)
            found |= {
                p: rests
                for p, rests in ((block.weight, choice.weight_rests), (block.bias, choice.cells_rest))
                if rests is not None
            }
            if choice.cells_rest is not None and isinstance(block.rho, nn.Parameter):
                found[block.rho] = choice.cells_rest
        return found

    def of_pair(self, t: int, s: int) -> tuple[Tensor, Tensor, Tensor]:
        """The regressor of a pair: weight (C_t, C_s), bias (C_t,) and rho (C_t,)."""
        i, place = next(p for p, g in zip(self.places, self.plan.groups, strict=True) if g.student == s and t in g.teachers)
        return self._block(i).regressor(place, [t])

    def _block(self, i: int) -> "GaussianBlock":
        block = self.blocks[i]
        assert isinstance(block, GaussianBlock)
        return block

    def _part(self, wanted: Wanted | None) -> "_Part":
        """Worked out once, and not at every step."""
        like = next(self.parameters())
        key = wanted, like.device, like.dtype
        if key not in self._parts:
            if len(self._parts) == PARTS:  # lambda moves: those of before are not asked for again
                self._parts.clear()
            self._parts[key] = _Part(self.plan, [self._block(i).packed for i in range(len(self.blocks))], wanted, like)
        return self._parts[key]


class GaussianBlock(nn.Module):
    """The regressors of a block: S layers of the student with J channels, and layers of the teacher with C.

    weight (J, C) leads from all to all; bias and rho (S, C) are of each channel of the teacher as each layer of the student
    predicts it. What belongs to no pair stays 0.
    """

    rho: Tensor

    def __init__(self, packed: Packed, start: float, learned: bool, floor: float) -> None:
        super().__init__()
        self.packed, self.floor = packed, floor if learned else 0.0
        cells = len(packed.groups), packed.shape[1]
        self.weight = nn.Parameter(torch.zeros(packed.shape))
        self.bias = nn.Parameter(torch.zeros(cells))
        rho = torch.full(cells, inverse_softplus(start - self.floor))
        if learned:
            self.rho = nn.Parameter(rho)
        else:
            self.register_buffer("rho", rho)

    def start_layer(self, place: int, generator: torch.Generator) -> None:
        """Starts the linear map from the layer to all its teachers as torch starts one."""
        rows, columns = self.packed.rows[place], self.packed.columns_of(self.packed.groups[place].teachers)
        with torch.no_grad():
            self.weight[rows.start : rows.stop, columns] = uniform_weight(len(columns), len(rows), generator).t()

    def regressor(self, place: int, teachers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The regressor of a layer of the student to some teachers: weight (C, C_s), bias (C,) and rho (C,)."""
        rows, columns = self.packed.rows[place], _index(self.packed.columns_of(teachers))
        return self.weight[rows.start : rows.stop, columns].t(), self.bias[place, columns], self.rho[place, columns]

    def sample_losses(
        self, place: int, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Tensor | None
    ) -> Tensor:
        """The losses (B, pairs) of one layer of the student; weights are None, (pairs,) or (B, pairs)."""
        group = self.packed.groups[place]
        weight, bias, rho = self.regressor(place, group.teachers)
        x = self._rows(group.student, features)
        target = blocks[group.size][..., _index(self.packed.channels_of(group.teachers))]
        members = torch.block_diag(*(torch.ones(len(self.packed.columns[t]), 1) for t in group.teachers)).to(x)
        if weights is None:
            mean = F.linear(x, weight, bias)
        else:
            scale = weights @ members.t()
            mean = scaled_linear(x, weight, bias, scale if scale.dim() == 1 else scale.unsqueeze(1))
        losses: Tensor = gaussian_nll(mean, target, softplus_variance(rho, self.floor)) @ (members / members.sum(0))
        return losses

    def inputs(self, choice: "_Choice", features: Sequence[Tensor], blocks: Mapping[Size, Tensor]) -> BlockInputs:
        target = blocks[self.packed.size]
        if choice.channels is not None:
            target = target[..., choice.channels]
        return BlockInputs(self.weight, self.bias, self.rho, target, [self._rows(s, features) for s in choice.students])

    def _rows(self, student: int, features: Sequence[Tensor]) -> Tensor:
        """(B, N, C_s)"""
        return pooled(as_map(features[student], self.packed.plan.student[student]), self.packed.size)


# Some of the pairs -----------------------------------------------------------------------------------------------------------


class _Choice:
    """Of a block, the layers that are computed; where they and their channels stand in its parameters, and in the targets."""

    def __init__(self, i: int, packed: Packed, wanted: Wanted | None, like: Tensor) -> None:
        self.block, device = i, like.device
        places, self.teachers = packed.part(wanted)
        self.students = [packed.groups[place].student for place in places]
        self.taught = [packed.groups[place].teachers for place in places]
        self.shape = BlockShape(
            [len(packed.rows[place]) for place in places],
            [len(packed.columns[t]) for t in self.teachers],
            like,
            places=_where(places, len(packed.groups), device),
            rows=_where([row for place in places for row in packed.rows[place]], packed.shape[0], device),
            columns=_where(packed.columns_of(self.teachers), packed.shape[1], device),
        )
        self.weight_rests = _rest(packed.shape, self.shape.in_weight, device)
        self.cells_rest = _rest((len(packed.groups), packed.shape[1]), self.shape.in_cells, device)
        in_targets = sum(packed.plan.teacher[t].channels for t in packed.plan.blocks[packed.size])
        self.channels = _where(packed.channels_of(self.teachers), in_targets, device)


class _Part:
    """What is computed: all pairs, or those of the layers that have a pair which is wanted.

    wide   blocks that are computed by themselves; choices, of the others
    pair   (cells,), the place of each cell's pair in the flat (T, S)
    order  for each pair of the plan, where it stands in a zero, the pairs of wide blocks, and those of the cells
    """

    def __init__(self, plan: PairPlan, blocks: Sequence[Packed], wanted: Wanted | None, like: Tensor) -> None:
        some = [i for i, block in enumerate(blocks) if block.part(wanted)[0]]
        self.wide = [i for i in some if blocks[i].wide]
        self.choices = [_Choice(i, blocks[i], wanted, like) for i in some if not blocks[i].wide]
        found: list[tuple[int, int] | None] = [None]
        found += [(t, group.student) for i in self.wide for group in blocks[i].groups for t in group.teachers]
        pairs = list[int]()
        for choice in self.choices:
            for s, taught in zip(choice.students, choice.taught, strict=True):
                pairs += [t * plan.shape[1] + s for t in choice.teachers for _ in range(plan.teacher[t].channels)]
                found += [(t, s) if t in taught else None for t in choice.teachers]
        self.zero, self.cells = (
            torch.zeros(1, dtype=like.dtype, device=like.device),
            Cells([choice.shape for choice in self.choices], like),
        )
        self.pair = torch.tensor(pairs, dtype=torch.long, device=like.device)
        stands = {pair: position for position, pair in enumerate(found) if pair}
        self.order = torch.tensor([stands.get((t, g.student), 0) for g in plan.groups for t in g.teachers], device=like.device)


def _rest(shape: tuple[int, int], chosen: tuple[slice | Tensor, slice | Tensor] | None, device: torch.device) -> Tensor | None:
    """True for the numbers that are not chosen; None where all are."""
    if chosen is None:
        return None
    rests = torch.ones(shape, dtype=torch.bool, device=device)
    rests[chosen] = False
    return rests


def _where(positions: Sequence[int], of: int, device: torch.device) -> Where:
    if len(positions) == of:
        return None
    index = _index(positions)
    return index if isinstance(index, slice) else torch.tensor(index, device=device)


def _index(positions: Sequence[int]) -> slice | list[int]:
    """What selects them, without a copy where they stand side by side."""
    if list(positions) == list(range(positions[0], positions[0] + len(positions))):
        return slice(positions[0], positions[0] + len(positions))
    return list(positions)
