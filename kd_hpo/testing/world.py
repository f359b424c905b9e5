"""A pair loss among layers of every kind: the ground on which its contract is tested."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, PairPlan, pair_plan

MakeLoss = Callable[[], PairLoss]

B, K = 3, 6
EXAMPLES = 9
"""In the memory of a loss that has one."""


@dataclass(frozen=True)
class Kind:
    """A layer as it is read, and the shape (B, ...) that it gives."""

    layer: LayerShape
    shape: tuple[int, ...]


TEACHER = [
    Kind(LayerShape("map", 6, 6, 6), (B, 6, 6, 6)),
    Kind(LayerShape("rectangle", 8, 5, 3), (B, 8, 5, 3)),
    Kind(LayerShape("channels_last", 7, 4, 4, channels_last=True), (B, 4, 4, 7)),
    Kind(LayerShape("class_token", 5, 3, 3), (B, 1 + 9, 5)),
    Kind(LayerShape("no_grid", 9, 1, 1), (B, 7, 9)),
    Kind(LayerShape("logits", K, 1, 1), (B, K)),
]
STUDENT = [
    Kind(LayerShape("map", 2, 4, 4), (B, 2, 4, 4)),
    Kind(LayerShape("rectangle", 3, 3, 7), (B, 3, 3, 7)),
    Kind(LayerShape("channels_last", 2, 6, 6, channels_last=True), (B, 6, 6, 2)),
    Kind(LayerShape("class_token", 4, 2, 2), (B, 1 + 4, 4)),
    Kind(LayerShape("no_grid", 2, 1, 1), (B, 5, 2)),
    Kind(LayerShape("vector", 4, 1, 1), (B, 4)),
]


class World:
    """A loss and random features for the pairs of some kinds, in float64 or as near to that as `dtype` can hold.

    The loss's parameters are moved a little, so that none of them is at 0 or 1.
    """

    def __init__(
        self, make: MakeLoss, teacher: Sequence[Kind], student: Sequence[Kind], dtype: torch.dtype = torch.float64
    ) -> None:
        self._generator, self._dtype = torch.Generator().manual_seed(0), dtype
        self.loss: PairLoss = make()
        self.plan: PairPlan = pair_plan([k.layer for k in teacher], [k.layer for k in student], meet=self.loss.meet)
        self.plan = replace(self.plan, examples=EXAMPLES)
        self.pairs = PairMatrix(self.plan, self.loss, generator=self._generator).double()
        with torch.no_grad():
            for p in self.pairs.parameters():
                p.add_(torch.randn(p.shape, generator=self._generator, dtype=torch.float64), alpha=0.2)
        self.pairs.to(dtype)
        self.features = [self.randn(*k.shape).requires_grad_() for k in student]
        maps = [as_map(self.randn(*k.shape), k.layer) for k in teacher]
        blocks = {size: torch.cat([pooled(maps[t], size) for t in ts], 2) for size, ts in self.plan.blocks.items()}
        negatives = torch.arange(EXAMPLES).repeat(B, 2)
        shares = torch.eye(K, dtype=dtype)[torch.tensor([2, 0, 5])]
        self.targets = Targets(self.randn(B, 2), blocks, shares, rows=torch.tensor([4, 0, 8]), negatives=negatives)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).to(self._dtype)

    def weights(self, *before: int) -> Tensor:
        """Random weights (*before, T, S), not negative."""
        return self.randn(*before, *self.plan.shape).abs()

    def take_numbers_of(self, other: "World") -> None:
        """Takes the other's features and targets, which are rounded more: what differs then is computed, not given."""
        self.features = [f.detach().to(self._dtype).requires_grad_() for f in other.features]
        blocks = {size: block.to(self._dtype) for size, block in other.targets.blocks.items()}
        self.targets = replace(self.targets, logits=other.targets.logits.to(self._dtype), blocks=blocks)
        self.pairs.load_state_dict(other.pairs.state_dict())

    @property
    def phi(self) -> list[Tensor]:
        return list(self.pairs.parameters())

    def losses(self, weights: Tensor | None = None) -> Tensor:
        """The losses of each example, (B, T, S)."""
        return self.pairs.sample_losses(self.features, self.targets, weights)

    def reason(self, t: int, s: int) -> str | None:
        """Tells why the loss does not serve the pair, or gives None where it does."""
        return self.loss.serves(self.plan.teacher[t], self.plan.student[s], self.plan.target_size(t, s))


def gradients(loss: Tensor, inputs: Sequence[Any]) -> list[Tensor]:
    if not inputs:
        return []
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def assert_close(
    actual: Sequence[Tensor], expected: Sequence[Tensor], wrong: str, rtol: float = 1e-8, atol: float = 1e-12
) -> None:
    """Asserts that all are equal up to rounding; the failure starts with the words `wrong`."""
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=rtol, atol=atol, msg=lambda numbers: f"{wrong}\n{numbers}")
