"""Adam for parameters that hold the numbers of several pairs, of which a step may leave some out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam


class RestingAdam(Adam):
    """Adam (Kingma & Ba 2015) under which a number that a step leaves out rests: neither it nor its moments change.

    Torch's own Adam moves it on by its momentum, shrinks its moments as if its gradient had been 0, and counts the step. Here a
    number that has rested has a count of its own, so that its moments are unbiased for the steps that it has had. Until one
    rests, this is torch's Adam to the last bit.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, fused=True)

    def step_but(self, resting: Mapping[nn.Parameter, Tensor]) -> None:
        """Takes a step of all parameters that have a gradient, but for some of their numbers.

        resting  of some parameters, which numbers rest: True there, of the parameter's shape
        """
        for parameter in resting:
            if parameter.grad is not None and "counts" not in self.state[parameter]:
                self._count_apart(parameter)
        counted = [
            [p for p in group["params"] if p.grad is not None and "counts" in self.state[p]] for group in self.param_groups
        ]
        gradients = {p: p.grad for of_group in counted for p in of_group}
        for parameter in gradients:
            parameter.grad = None
        super().step()
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        for group, parameters in zip(self.param_groups, counted, strict=True):
            if parameters:
                self._step_by_own_counts(group, parameters, resting)

    def _count_apart(self, parameter: nn.Parameter) -> None:
        """From here on each number of the parameter has its own count of steps, which starts at that of all of them."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["counts"] = torch.full_like(parameter, float(state["step"]), requires_grad=False)

    @torch.no_grad()
    def _step_by_own_counts(
        self, group: Mapping[str, Any], parameters: list[nn.Parameter], resting: Mapping[nn.Parameter, Tensor]
    ) -> None:
        """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - lr m / (1 - b1^n) / (sqrt(v / (1 - b2^n)) + eps)."""
        states = [self.state[p] for p in parameters]
        p, g = _side_by_side(parameters), _side_by_side([q.grad for q in parameters if q.grad is not None])
        m, v, n = (_side_by_side([state[slot] for state in states]) for slot in ("exp_avg", "exp_avg_sq", "counts"))
        b1, b2 = group["betas"]
        moves = ~_side_by_side([resting[q] if q in resting else torch.zeros_like(q, dtype=torch.bool) for q in parameters])
        count = n + moves
        first, second = torch.lerp(g, m, b1), torch.lerp(g.square(), v, b2)
        unbiased = first / (1 - b1**count), second / (1 - b2**count)
        moved = p - group["lr"] * unbiased[0] / (unbiased[1].sqrt() + group["eps"])
        for new, old, into in (
            (moved, p, parameters),
            (first, m, [state["exp_avg"] for state in states]),
            (second, v, [state["exp_avg_sq"] for state in states]),
            (count, n, [state["counts"] for state in states]),
        ):
            parts = torch.where(moves, new, old).split([q.numel() for q in into])
            for whole, part in zip(into, parts, strict=True):
                whole.copy_(part.view_as(whole))
        for state in states:
            state["step"] += 1


def _side_by_side(tensors: list[Any]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
