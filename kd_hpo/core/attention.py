"""SemCKD's weighting: attention over teacher layers, for each example, learned from the training loss."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.weightings import Compared, Constant


class CrossLayerAttention(nn.Module):
    """Semantic calibration (Chen et al. 2021, eq. 4-6): how much each teacher layer should teach each student layer.

    Queries (student layers) and keys (teacher layers) are small networks on the rows of a layer's B x B similarity matrix,
    so the batch size is part of the model.
    """

    served: Tensor

    def __init__(self, served: Tensor, batch_size: int, *, factor: int = 4, generator: torch.Generator) -> None:
        """served (T, S): 0 for the pairs that stay at weight 0."""
        super().__init__()
        T, S = served.shape
        self.register_buffer("served", served > 0, persistent=False)
        width = max(batch_size // factor, 1)
        self.keys = nn.ModuleList(_Embedding(batch_size, width, generator) for _ in range(T))
        self.queries = nn.ModuleList(_Embedding(batch_size, width, generator) for _ in range(S))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The weights of each example's pairs by their features: S and T of (B, ...) -> (B, T, S).

        They are a softmax over the served T, over their S: each example's weights sum to 1.
        """
        keys = torch.stack([net(_similarity(f)) for net, f in zip(self.keys, teacher, strict=True)], 1)  # (B, T, d)
        queries = torch.stack([net(_similarity(f)) for net, f in zip(self.queries, student, strict=True)], 1)  # (B, S, d)
        scores = (keys @ queries.transpose(1, 2)).masked_fill(~self.served, -torch.inf)
        columns = self.served.any(0)  # a student layer without any pair has no weights to share out
        attended = torch.softmax(scores.masked_fill(~columns, 0.0), dim=1)
        return attended * columns / columns.sum()


class Attention(Constant):
    """The weights of each example by CrossLayerAttention, trained by the training loss (Chen et al. 2021).

    served      (T, S), not 0 for the pairs that have a weight
    batch_size  B', the examples of a batch that are compared
    lr          learning rate of the attention's own parameters
    """

    reads_features = True

    def __init__(
        self, served: Tensor, batch_size: int, *, lr: float, factor: int, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__(served)
        self.attention = CrossLayerAttention(served, batch_size, factor=factor, generator=generator).to(device)
        self._lr, self._sum = lr, torch.zeros(served.shape)

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        """The weights of these features, (B', T, S); without any, those of all pairs alike, (T, S)."""
        if features is None:
            return super().weights(epoch)
        weights: Tensor = self.attention(features.student, features.teacher)
        self._sum += weights.detach().mean(0).cpu()
        return weights

    def of_epoch(self, epoch: int) -> Tensor:
        """The mean weights (T, S) over the examples since the last call; zeros where no step had pairs."""
        mean = self._sum / self._sum.sum().clamp_min(torch.finfo(torch.float32).tiny)
        self._sum = torch.zeros_like(mean)
        return mean

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.attention.parameters()), "lr": self._lr}]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.attention.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.attention.load_state_dict(state)


class _Embedding(nn.Module):
    def __init__(self, size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        for parameter in self.parameters():
            bound = parameter.shape[-1] ** -0.5
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(self, similarity: Tensor) -> Tensor:
        return F.normalize(self.layers(similarity), dim=1)


def _similarity(feature: Tensor) -> Tensor:  # (B, ...) -> (B, B), the inner products of the examples
    rows = feature.detach().flatten(1)
    return rows @ rows.t()
