"""Pair losses that regress the teacher's channels on the student's: one linear map serves a student layer at a resolution."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.gaussian_means import gaussian_means
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.normalisation import batch_normalised, unit_rows
from kd_hpo.core.plan import Group, LayerShape, PairPlan, Size

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


def info_nce(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Minus the log softmax of each example's own teacher among the batch's, by cosine over a temperature.

    student, teacher  (B, P, C)  one vector a pair; the teacher's are constants
    returns           (B, P)     log B less its mean over the batch is a lower bound of the mutual information, in nats
    """
    cosine = torch.einsum("ipc,jpc->pij", unit_rows(student), unit_rows(teacher.detach()))
    return -F.log_softmax(cosine / temperature, dim=2).diagonal(dim1=1, dim2=2).t()


# Losses ----------------------------------------------------------------------------------------------------------------------


class _Regression:
    meet: ClassVar[bool] = True

    def serves(self, teacher: LayerShape, student: LayerShape, size: Size) -> str | None:
        return None


@dataclass(frozen=True)
class Gaussian(_Regression):
    """Minus a variational lower bound of I(h_t; h_s), up to H(h_t), in nats an element (VID, Ahn et al. 2019).

    learn_variance False keeps each channel's variance at `variance`; else it starts there and stays above `floor`.
    mlp is the paper's regressor: three layers of the teacher's width with ReLU, without bias.
    """

    variance: float = 1.0
    floor: float = 1e-3
    learn_variance: bool = True
    regressor: Literal["linear", "mlp"] = "linear"
    standardised: ClassVar[bool] = True

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return Regressors(plan, [GaussianRegressor(self, plan, group, generator) for group in plan.groups])


@dataclass(frozen=True)
class Hint(_Regression):
    """Mean squared error of a regressed hint (FitNets, Romero et al. 2015): linear, batch norm and, if asked, ReLU.

    The batch's statistics tie its examples together: a weight of one example scales the gradient into that example's feature.
    """

    relu: bool = True
    standardised: ClassVar[bool] = False

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return Regressors(plan, [HintRegressor(self, plan, group, generator) for group in plan.groups])


@dataclass(frozen=True)
class InfoNCE(_Regression):
    """log B less a lower bound of I(h_t; h_s) (CPC, van den Oord et al. 2018).

    The critic is the cosine of the regressed student and the teacher, both averaged over positions, over `temperature`.
    """

    temperature: float = 0.1
    standardised: ClassVar[bool] = True

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return Regressors(plan, [InfoNCERegressor(self, plan, group, generator) for group in plan.groups])


# Modules ---------------------------------------------------------------------------------------------------------------------


class GroupRegressor(nn.Module, ABC):
    """A linear map of one student layer to the channels of all teacher layers of its group; a subclass compares the two."""

    bias: Tensor
    pair: Tensor
    members: Tensor
    index: Tensor | None

    def __init__(self, plan: PairPlan, group: Group, generator: torch.Generator, *, bias: bool = True) -> None:
        super().__init__()
        self.layer, self.size = plan.student[group.student], group.size
        self.channels = [plan.teacher[t].channels for t in group.teachers]
        self.weight = _uniform(sum(self.channels), self.layer.channels, generator)
        zeros = torch.zeros(sum(self.channels))
        if bias:
            self.bias = nn.Parameter(zeros)
        else:
            self.register_buffer("bias", zeros, persistent=False)
        pair = torch.arange(len(self.channels)).repeat_interleave(torch.tensor(self.channels))
        self.register_buffer("pair", pair, persistent=False)  # (C,), of each channel
        # (C, pairs), 1 where a channel is the pair's own: sums over channels are one matrix product for all pairs.
        self.register_buffer("members", torch.block_diag(*(torch.ones(c, 1) for c in self.channels)), persistent=False)
        positions = plan.channels_of(group)
        contiguous = positions == tuple(range(positions[0], positions[0] + len(positions)))
        self.span = slice(positions[0], positions[0] + len(positions))
        self.register_buffer("index", None if contiguous else torch.tensor(positions), persistent=False)

    def forward(self, feature: Tensor, block: Tensor, weights: Tensor | None) -> Tensor:
        """feature (B, ...) of the student, block (B, hw, C'), weights None or (pairs,) or (B, pairs) -> losses (B, pairs)."""
        return self.losses(self.predicted(self.rows(feature), self.of_channels(weights)), self.target(block))

    def means(self, feature: Tensor, block: Tensor, weights: Tensor | None) -> Tensor:
        """The same, with weights None or (pairs,), the mean over examples -> (pairs,)."""
        return self.forward(feature, block, weights).mean(0)

    def rows(self, feature: Tensor) -> Tensor:
        """(B, ...) of the student -> (B, N, C_s)"""
        return pooled(as_map(feature, self.layer), self.size)

    def target(self, block: Tensor) -> Tensor:
        """(B, N, C'), the teacher at a resolution -> (B, N, C)"""
        return block[..., self.span] if self.index is None else block.index_select(2, self.index)

    def of_channels(self, weights: Tensor | None) -> Tensor | None:
        """(..., pairs) -> (..., C), of each channel its pair's"""
        return None if weights is None else weights.index_select(-1, self.pair)

    def predicted(self, rows: Tensor, scale: Tensor | None) -> Tensor:
        """(B, N, C_s) -> (B, N, C), the channels of all pairs side by side."""
        if scale is None:
            return F.linear(rows, self.weight, self.bias)
        return scaled_linear(rows, self.weight, self.bias, scale if scale.dim() == 1 else scale.unsqueeze(1))

    @abstractmethod
    def losses(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Both (B, N, C) -> (B, pairs)"""

    def shares(self) -> Tensor:
        """(C, pairs), of each channel in its pair's mean."""
        return self.members / self.members.sum(0)

    def mean_over_channels(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, pairs)"""
        return x @ self.shares()


class GaussianRegressor(GroupRegressor):
    rho: Tensor

    def __init__(self, loss: Gaussian, plan: PairPlan, group: Group, generator: torch.Generator) -> None:
        deep = loss.regressor == "mlp"
        super().__init__(plan, group, generator, bias=not deep)
        self.deeper = nn.ModuleList(_PairwiseLinear(self.channels, generator) for _ in range(2 if deep else 0))
        self.floor = loss.floor if loss.learn_variance else 0.0
        rho = torch.full((len(self.weight),), inverse_softplus(loss.variance - self.floor))
        if loss.learn_variance:
            self.rho = nn.Parameter(rho)
        else:
            self.register_buffer("rho", rho)

    def means(self, feature: Tensor, block: Tensor, weights: Tensor | None) -> Tensor:
        channels, width = self.weight.shape
        differentiated_twice = weights is None and torch.is_grad_enabled()
        if self.deeper or differentiated_twice or width > channels:  # second moments of a wide student are many
            return super().means(feature, block, weights)
        variance = softplus_variance(self.rho, self.floor)
        scale = self.of_channels(weights)
        if scale is None:
            scale = torch.ones_like(variance)
        return gaussian_means(self.rows(feature), self.weight, self.bias, variance, self.target(block), self.shares(), scale)

    def losses(self, predicted: Tensor, target: Tensor) -> Tensor:
        for layer in self.deeper:
            predicted = layer(F.relu(predicted))
        return self.mean_over_channels(gaussian_nll(predicted, target, softplus_variance(self.rho, self.floor)))


class HintRegressor(GroupRegressor):
    def __init__(self, loss: Hint, plan: PairPlan, group: Group, generator: torch.Generator) -> None:
        super().__init__(plan, group, generator, bias=False)
        self.relu = loss.relu
        self.gain, self.shift = nn.Parameter(torch.ones(len(self.weight))), nn.Parameter(torch.zeros(len(self.weight)))

    def losses(self, predicted: Tensor, target: Tensor) -> Tensor:
        hint = batch_normalised(predicted, self.gain, self.shift)
        error = (F.relu(hint) if self.relu else hint) - target.detach()
        return self.mean_over_channels(error.square().mean(1))


class InfoNCERegressor(GroupRegressor):
    columns: Tensor

    def __init__(self, loss: InfoNCE, plan: PairPlan, group: Group, generator: torch.Generator) -> None:
        super().__init__(plan, group, generator)
        self.temperature = loss.temperature
        # (pairs, widest): a pair's own channels; the narrower pairs are filled up with a column of zeros behind the last.
        spans = list(torch.arange(len(self.weight)).split(self.channels))
        columns = nn.utils.rnn.pad_sequence(spans, batch_first=True, padding_value=len(self.weight))
        self.register_buffer("columns", columns, persistent=False)

    def predicted(self, rows: Tensor, scale: Tensor | None) -> Tensor:
        return super().predicted(rows.mean(1, keepdim=True), scale)  # the map is linear: the mean of its outputs

    def losses(self, predicted: Tensor, target: Tensor) -> Tensor:
        return info_nce(self._by_pair(predicted.squeeze(1)), self._by_pair(target.mean(1)), self.temperature)

    def _by_pair(self, x: Tensor) -> Tensor:  # (B, C) -> (B, pairs, widest)
        return F.pad(x, (0, 1))[:, self.columns]


class _PairwiseLinear(nn.Module):
    """A square linear map of each pair's own channels, without bias."""

    def __init__(self, channels: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.weights = nn.ParameterList(_uniform(c, c, generator) for c in channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, C) -> (B, N, C)
        parts = x.split([len(weight) for weight in self.weights], dim=-1)
        return torch.cat([F.linear(part, weight) for part, weight in zip(parts, self.weights, strict=True)], -1)


class Regressors(nn.Module):
    """One regressor for each group of a plan."""

    def __init__(self, plan: PairPlan, groups: Sequence[GroupRegressor]) -> None:
        super().__init__()
        self.plan, self.groups = plan, nn.ModuleList(groups)

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        return [regressor(*inputs) for regressor, inputs in self._inputs(features, blocks, weights)]

    def means(self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]) -> list[Tensor]:
        return [regressor.means(*inputs) for regressor, inputs in self._inputs(features, blocks, weights)]

    def _inputs(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> Iterator[tuple[GroupRegressor, tuple[Tensor, Tensor, Tensor | None]]]:
        for group, regressor, of_group in zip(self.plan.groups, self.groups, weights, strict=True):
            assert isinstance(regressor, GroupRegressor)
            yield regressor, (features[group.student], blocks[group.size], of_group)


def _uniform(fan_out: int, fan_in: int, generator: torch.Generator) -> nn.Parameter:
    bound = fan_in**-0.5
    return nn.Parameter((torch.rand(fan_out, fan_in, generator=generator) * 2 - 1) * bound)
