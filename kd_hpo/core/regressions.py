"""Pair losses that regress the teacher's channels on the student's: one linear map serves a student layer at a resolution."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.convolutional_hints import ConvolutionalHints
from kd_hpo.core.gaussian.formula import gaussian_nll, inverse_softplus, softplus_variance, uniform_weight
from kd_hpo.core.gaussian.regressors import LinearGaussian
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.normalisation import batch_normalised, unit_rows
from kd_hpo.core.plan import Group, LayerShape, PairPlan, Size

# Formulas --------------------------------------------------------------------------------------------------------------------


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
        if self.regressor == "mlp":
            return Regressors(plan, [GaussianRegressor(self, plan, group, generator) for group in plan.groups])
        return LinearGaussian(plan, start=self.variance, learned=self.learn_variance, floor=self.floor, generator=generator)


@dataclass(frozen=True)
class Hint(_Regression):
    """Mean squared error of a regressed hint (FitNets, Romero et al. 2015): linear, batch norm and, if asked, ReLU.

    The regressor `convolutions` has 1x1, 3x3 and 1x1 instead, the first two with batch norm and ReLU, twice as wide as the
    teacher's layer (SemCKD, Chen et al. 2021).

    The batch's statistics tie its examples together: a weight of one example scales the gradient into that example's feature.
    """

    relu: bool = True
    regressor: Literal["convolutions"] | None = None
    """None is the linear one; convolutions are SemCKD's."""
    standardised: ClassVar[bool] = False

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        if self.regressor == "convolutions":
            return ConvolutionalHints(plan, relu=self.relu, generator=generator)
        return Regressors(plan, [HintRegressor(self, plan, group, generator) for group in plan.groups])


@dataclass(frozen=True)
class InfoNCE(_Regression):
    """The loss log B less a lower bound of I(h_t; h_s) (CPC, van den Oord et al. 2018).

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
        self.weight = nn.Parameter(uniform_weight(sum(self.channels), self.layer.channels, generator))
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
        """The losses (B, pairs) of a feature (B, ...) of the student and a block (B, hw, C') of the teacher.

        weights  None, (pairs,) or (B, pairs)
        """
        rows = pooled(as_map(feature, self.layer), self.size)
        target = block[..., self.span] if self.index is None else block.index_select(2, self.index)
        return self.losses(self.predicted(rows, None if weights is None else weights.index_select(-1, self.pair)), target)

    def predicted(self, rows: Tensor, scale: Tensor | None) -> Tensor:
        """Predicts the channels of all pairs, side by side: (B, N, C_s) -> (B, N, C)."""
        if scale is None:
            return F.linear(rows, self.weight, self.bias)
        return scaled_linear(rows, self.weight, self.bias, scale if scale.dim() == 1 else scale.unsqueeze(1))

    @abstractmethod
    def losses(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Compares predictions and targets, both (B, N, C) -> (B, pairs)."""

    def mean_over_channels(self, x: Tensor) -> Tensor:
        """Averages over the channels of each pair: (B, C) -> (B, pairs)."""
        return x @ (self.members / self.members.sum(0))


class GaussianRegressor(GroupRegressor):
    """A regressor of three layers for each pair; `kd_hpo.core.gaussian.regressors` has the linear one."""

    rho: Tensor

    def __init__(self, loss: Gaussian, plan: PairPlan, group: Group, generator: torch.Generator) -> None:
        super().__init__(plan, group, generator, bias=False)
        self.deeper = nn.ModuleList(_PairwiseLinear(self.channels, generator) for _ in range(2))
        self.floor = loss.floor if loss.learn_variance else 0.0
        rho = torch.full((len(self.weight),), inverse_softplus(loss.variance - self.floor))
        if loss.learn_variance:
            self.rho = nn.Parameter(rho)
        else:
            self.register_buffer("rho", rho)

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
        self.weights = nn.ParameterList(nn.Parameter(uniform_weight(c, c, generator)) for c in channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, C) -> (B, N, C)
        parts = x.split([len(weight) for weight in self.weights], dim=-1)
        return torch.cat([F.linear(part, weight) for part, weight in zip(parts, self.weights, strict=True)], -1)


class Regressors(nn.Module):
    """The regressors of a plan, one for each group."""

    def __init__(self, plan: PairPlan, groups: Sequence[GroupRegressor]) -> None:
        super().__init__()
        self.plan, self.groups = plan, nn.ModuleList(groups)

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        parts = zip(self.plan.groups, self.groups, weights, strict=True)
        return [regressor(features[group.student], blocks[group.size], of_group) for group, regressor, of_group in parts]
