"""The (T, S) matrix of pair losses, whatever the loss, computed together."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from kd_hpo.core.gradient_scaling import scaled_identity
from kd_hpo.core.logit_losses import categorical_kl
from kd_hpo.core.maps import gradient_in_own_layout
from kd_hpo.core.pair_losses import AcrossLayers, BatchMeans, OfTargets, PairLoss, Remembers, SharedParameters
from kd_hpo.core.plan import PairPlan, Size
from kd_hpo.core.targets import Targets as Targets


class PairMatrix(nn.Module):
    """The matrix D (T, S) of every pair's loss, 0 where the loss does not serve the pair or the plan does not compare it.

    Its parameters are the regressors phi, a small set a pair, where the loss has any. `temperature` is for the logits pair,
    where the plan has one: it is categorical whatever the loss. Raises ValueError for a plan whose `meet` is not the loss's.
    """

    cells: Tensor
    order: Tensor
    served: Tensor | None

    def __init__(
        self, plan: PairPlan, loss: PairLoss, *, temperature: float = 4.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if plan.meet != loss.meet:
            raise ValueError(f"{loss} takes a plan with meet={loss.meet}, and this one has meet={plan.meet}")
        self.plan, self.temperature = plan, temperature
        self.feature_pairs = loss.module(plan, generator or torch.Generator().manual_seed(0))
        self._has_means = isinstance(self.feature_pairs, BatchMeans)  # once, since a protocol is slow to answer
        self.reads_labels = isinstance(self.feature_pairs, OfTargets)
        """Whether the targets have to say what the labels are."""
        self._remembers = isinstance(self.feature_pairs, Remembers)
        self.across_layers = isinstance(self.feature_pairs, AcrossLayers)
        """Whether a pair's gradient reaches other student layers than its own."""
        T, S = plan.shape
        of_groups = [t * S + g.student for g in plan.groups for t in g.teachers]
        cells = of_groups + ([T * S - 1] if plan.logits_pair else [])
        absent = sorted(set(range(T * S)).difference(cells))
        self.absent = len(absent)
        self.register_buffer("cells", torch.tensor(of_groups, dtype=torch.long), persistent=False)
        self.register_buffer("order", torch.tensor(cells + absent).argsort(), persistent=False)
        served = torch.ones(T, S)
        for group in plan.groups:
            for t in group.teachers:
                served[t, group.student] = loss.serves(plan.teacher[t], plan.student[group.student], group.size) is None
        self.register_buffer("served", None if served.all() else served, persistent=False)

    def forward(
        self,
        features: Sequence[Tensor],
        targets: Targets,
        weights: Tensor | None = None,
        needed: Tensor | None = None,
    ) -> Tensor:
        """The (T, S) matrix of pair losses, the mean over the examples that are compared; that of the logits, over all.

        features  S tensors of the student: maps (B, C, H, W), tokens (B, N, C) or vectors (B, C)
        weights   None: plain losses. (T, S): the value is the same, but backward each pair's gradient enters the student
                  multiplied by its weight, while the regressors get theirs at unit weight
        needed    None: all pairs. (T, S): those where it is False may be left out, with a loss of 0, and then neither train
                  their regressors nor read their targets (`sizes`)
        """
        compared = self._compared(features, weights, targets.compared, needed)
        if not self.plan.groups:
            parts = []
        elif self._has_means:
            parts = [cast(BatchMeans, self.feature_pairs).means(compared, targets.blocks, weights, needed)]
        else:
            parts = [losses.mean(0) for losses in self._of_features(compared, targets, weights)]
        if self.plan.logits_pair and (needed is None or needed[-1, -1]):
            parts.append(self._logits_pair(features, targets, weights).mean(0))
        elif self.plan.logits_pair:
            parts.append(features[-1].new_zeros(1))
        return self._in_order(parts)

    @property
    def memory(self) -> Remembers | None:
        """The module of the pairs, where that keeps a memory of the training images."""
        return cast(Remembers, self.feature_pairs) if self._remembers else None

    def sample_losses(self, features: Sequence[Tensor], targets: Targets, weights: Tensor | None = None) -> Tensor:
        """The pair losses of each example that is compared, (B', T, S); weights may be theirs too, (B', T, S)."""
        compared = self._compared(features, weights, targets.compared)
        parts = self._of_features(compared, targets, weights)
        if self.plan.logits_pair:
            parts.append(self._logits_pair(compared, targets, weights))
        return self._in_order(parts)

    def resting(self, needed: Tensor | None) -> Mapping[nn.Parameter, Tensor]:
        """The numbers of parameters that `forward` with `needed` (T, S) does not train: True, in the parameter's shape."""
        if needed is None or not isinstance(self.feature_pairs, SharedParameters):
            return {}
        return self.feature_pairs.resting(needed)

    def sizes(self, needed: Tensor | None) -> frozenset[Size]:
        """The resolutions of the targets that `forward` reads; needed is None or (T, S)."""
        if needed is None or not self._has_means:
            return self.plan.sizes
        wanted = needed.tolist()
        return frozenset(g.size for g in self.plan.groups if any(wanted[t][g.student] for t in g.teachers))

    def _compared(
        self, features: Sequence[Tensor], weights: Tensor | None, examples: int, needed: Tensor | None = None
    ) -> list[Tensor]:
        """The features of the first examples, as they are differentiated where a pair needs them."""
        if weights is None:
            return [feature[:examples] for feature in features]
        wanted = [True] * len(features) if needed is None or not self._has_means else needed.any(0).tolist()
        return [gradient_in_own_layout(f, examples) if of_pair else f for f, of_pair in zip(features, wanted, strict=True)]

    def _of_features(self, compared: list[Tensor], targets: Targets, weights: Tensor | None) -> list[Tensor]:
        """(B', pairs) of each group."""
        of_groups = self._of_groups(weights)
        if self.reads_labels:
            return cast(OfTargets, self.feature_pairs).of_targets(compared, targets, of_groups)
        losses: list[Tensor] = self.feature_pairs(compared, targets.blocks, of_groups)
        return losses

    def _of_groups(self, weights: Tensor | None) -> list[Tensor | None]:
        """(..., T, S) -> of each group (..., pairs)"""
        if weights is None:
            return [None] * len(self.plan.groups)
        counts = [len(g.teachers) for g in self.plan.groups]
        return list(weights.flatten(-2).index_select(-1, self.cells).split(counts, -1))

    def _logits_pair(self, features: Sequence[Tensor], targets: Targets, weights: Tensor | None) -> Tensor:
        """(B, 1), or as many as the features have."""
        logits = features[-1].flatten(1)
        if weights is not None:
            logits = scaled_identity(logits, weights[..., -1, -1].unsqueeze(-1))
        return categorical_kl(logits, targets.logits[: len(logits)], self.temperature).unsqueeze(1)

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        """(..., pairs) of each group, then of the logits -> (..., T, S)"""
        if self.absent:
            parts = [*parts, parts[0].new_zeros(*parts[0].shape[:-1], self.absent)]
        cells = torch.cat(parts, -1).index_select(-1, self.order)
        losses = cells.view(*cells.shape[:-1], *self.plan.shape)
        return losses if self.served is None else losses * self.served
