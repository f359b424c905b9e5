"""The (T, S) matrix of pair losses, computed together: one regressor call serves a student layer at a resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.gradient_scaling import scaled_identity, scaled_linear
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.pair_losses import categorical_kl, gaussian_nll, inverse_softplus, softplus_variance
from kd_hpo.core.plan import Group, PairPlan, Size


@dataclass(frozen=True)
class Targets:
    """What the frozen teacher says of one batch.

    logits  (B, K), as the teacher gives them
    blocks  for each resolution (h, w): (B, h * w, C), the channels of its layers side by side, in the plan's order
    """

    logits: Tensor
    blocks: dict[Size, Tensor]


class GroupRegressor(nn.Module):
    """Gaussian q(h_t | h_s) for the pairs of one student layer at one resolution: a linear map and a variance a channel.

    learn_variance False keeps the variance at `variance`; else it starts there and stays above `floor`.
    """

    rho: Tensor
    members: Tensor
    index: Tensor | None

    def __init__(
        self, plan: PairPlan, group: Group, *, variance: float, floor: float, learn_variance: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.size, self.floor = group.size, floor if learn_variance else 0.0
        channels = [plan.teacher[t].channels for t in group.teachers]
        fan_in, fan_out = plan.student[group.student].channels, sum(channels)
        bound = fan_in**-0.5
        self.weight = nn.Parameter((torch.rand(fan_out, fan_in, generator=generator) * 2 - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(fan_out))
        rho = torch.full((fan_out,), inverse_softplus(variance - self.floor))
        if learn_variance:
            self.rho = nn.Parameter(rho)
        else:
            self.register_buffer("rho", rho)
        # (C, pairs), 1 where a channel is the pair's own: sums over channels are one matrix product for all pairs.
        self.register_buffer("members", torch.block_diag(*(torch.ones(c, 1) for c in channels)), persistent=False)
        positions = plan.channels_of(group)
        contiguous = positions == tuple(range(positions[0], positions[0] + len(positions)))
        self.span = slice(positions[0], positions[0] + len(positions))
        self.register_buffer("index", None if contiguous else torch.tensor(positions), persistent=False)

    def forward(self, feature: Tensor, block: Tensor, weights: Tensor | None) -> Tensor:
        """feature (B, ...) of the student, block (B, hw, C'), weights None or (pairs,) or (B, pairs) -> losses (B, pairs)."""
        rows = pooled(as_map(feature), self.size)
        target = block[..., self.span] if self.index is None else block.index_select(2, self.index)
        if weights is None:
            mean = F.linear(rows, self.weight, self.bias)
        else:  # a pair's weight, at each of its channels
            scale = weights @ self.members.t()
            mean = scaled_linear(rows, self.weight, self.bias, scale if scale.dim() == 1 else scale.unsqueeze(1))
        nll = gaussian_nll(mean, target, softplus_variance(self.rho, self.floor))
        return nll @ self.members / self.members.sum(0)  # the mean over each pair's channels


class PairMatrix(nn.Module):
    """D (T, S): every pair's loss, minus a variational lower bound of I(h_t; h_s) up to H(h_t), in nats an element.

    Its parameters are the regressors and variances phi, a small set a pair. `temperature` serves the logits pair, where
    the plan has one.
    """

    order: Tensor

    def __init__(
        self,
        plan: PairPlan,
        *,
        variance: float = 1.0,
        floor: float = 1e-3,
        learn_variance: bool = True,
        temperature: float = 4.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.plan, self.temperature = plan, temperature
        generator = generator or torch.Generator().manual_seed(0)
        self.groups = nn.ModuleList(
            GroupRegressor(plan, g, variance=variance, floor=floor, learn_variance=learn_variance, generator=generator)
            for g in plan.groups
        )
        T, S = plan.shape
        cells = [t * S + g.student for g in plan.groups for t in g.teachers] + ([T * S - 1] if plan.logits_pair else [])
        self.register_buffer("order", torch.tensor(cells).argsort(), persistent=False)

    def sample_losses(self, features: Sequence[Tensor], targets: Targets, weights: Tensor | None = None) -> Tensor:
        """The pair losses of each example.

        features  S tensors of the student: maps (B, C, H, W), tokens (B, N, C) or vectors (B, C)
        weights   None: plain losses. (T, S) or (B, T, S): the value is the same, but backward each pair's gradient enters
                  the student multiplied by its weight, while regressors and variances get theirs at unit weight
        returns   (B, T, S)
        """
        parts = []
        for group, regressor in zip(self.plan.groups, self.groups, strict=True):
            of_group = None if weights is None else weights[..., list(group.teachers), group.student]
            parts.append(regressor(features[group.student], targets.blocks[group.size], of_group))
        if self.plan.logits_pair:
            logits = features[-1].flatten(1)
            if weights is not None:
                logits = scaled_identity(logits, weights[..., -1, -1].unsqueeze(-1))
            parts.append(categorical_kl(logits, targets.logits, self.temperature).unsqueeze(1))
        return torch.cat(parts, 1)[:, self.order].view(-1, *self.plan.shape)

    def forward(self, features: Sequence[Tensor], targets: Targets) -> Tensor:
        """The (T, S) matrix of pair losses, the batch's mean."""
        return self.sample_losses(features, targets).mean(0)


def pair_gradient_norms(pairs: PairMatrix, features: Sequence[Tensor], targets: Targets) -> Tensor:
    """|dD_ts / dh_s|_F for every pair -> (T, S); one batched backward pass a student layer, none through the student."""
    leaves = [f.detach().requires_grad_() for f in features]
    losses = pairs(leaves, targets)
    T, S = losses.shape
    picks = torch.eye(T, device=losses.device, dtype=losses.dtype)
    norms = []
    for s in range(S):
        (g,) = torch.autograd.grad(losses[:, s], leaves[s], picks, retain_graph=s < S - 1, is_grads_batched=True)
        norms.append(g.flatten(1).norm(dim=1))
    return torch.stack(norms, 1)
