"""Makes pairs comparable: each pair's gradient in the student's parameters becomes as large as the task's there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, NAdam, Optimizer, RMSprop

from kd_hpo.core.params import Params

AT_ONCE = 16
"""Pairs of one measure, once all have been measured: each costs a pass back through the student."""


class GradientBalance:
    """The scales scale_ts = |dL_task / dw| / |dD_ts / dw| of the pairs, from running averages of both squared norms.

    At a pair's own layer, a gradient says little of what it does to the student: most of one that enters early is lost on
    the few parameters below it. In the parameters, pairs of all depths pull equally hard.
    decay     factor of the running averages; they are unbiased, so the first measure counts in full
    measures  how many measures must stand before the pairs are switched on: until then every scale is 0

    A measure that is not finite is passed over: the pair keeps its scale, and `missed` counts.
    """

    def __init__(self, shape: tuple[int, int], *, decay: float, measures: int = 1) -> None:
        self._decay, self._needed = decay, measures
        self._task, self._pairs = torch.zeros(()), torch.zeros(shape)
        self._task_weight, self._pair_weights = torch.zeros(()), torch.zeros(shape)  # of what the averages hold
        self._count, self._missed_now = 0, 0
        self.missed = torch.zeros(shape)
        """(T, S): how many measures of the pair in a row were not finite."""
        self._asked = torch.zeros(shape)
        self._scales = torch.zeros(shape)

    def in_turn(self, wanted: Tensor | None = None) -> Tensor:
        """Tells which pairs to measure next, (T, S): of those wanted, all that are new, else those of longest ago."""
        wanted = torch.ones_like(self._pairs, dtype=torch.bool) if wanted is None else wanted.cpu()
        new = wanted & (self._asked == 0)
        if new.any():
            return new
        oldest = torch.where(wanted, self._asked, torch.inf).flatten().argsort(stable=True)[:AT_ONCE]
        return wanted & torch.zeros_like(wanted).flatten().index_fill(0, oldest, True).view_as(wanted)

    def observe(self, task: Tensor, pairs: Tensor, measured: Tensor | None = None) -> None:
        """Takes the squared norms of the task's gradient, (), and of the pairs', (T, S).

        measured  (T, S), where some pairs were not measured: False for those, which stay as they are
        """
        self._count += 1
        task, pairs = task.to(self._task), pairs.to(self._pairs)
        measured = torch.ones_like(pairs, dtype=torch.bool) if measured is None else measured.to(pairs.device)
        finite = measured & pairs.isfinite() & task.isfinite()
        self._asked = torch.where(measured, float(self._count), self._asked)
        self.missed = torch.where(finite, 0.0, self.missed + (measured & ~finite))
        self._missed_now += int((measured & ~finite).sum())
        if task.isfinite():
            self._task = torch.lerp(task, self._task, self._decay)
            self._task_weight = torch.lerp(torch.ones(()), self._task_weight, self._decay)
        self._pairs = torch.where(finite, torch.lerp(pairs, self._pairs, self._decay), self._pairs)
        self._pair_weights = torch.where(
            finite, torch.lerp(torch.ones_like(pairs), self._pair_weights, self._decay), self._pair_weights
        )
        self._scales = self._balanced()

    @property
    def unknown(self) -> Tensor:
        """The pairs that were measured, and never with a finite norm: True in (T, S)."""
        return (self._asked > 0) & (self._pair_weights == 0)

    @property
    def started(self) -> bool:
        """Whether enough measures stand for the pairs to be switched on."""
        return self._count >= self._needed

    def scales(self) -> Tensor:
        """The scales (T, S); a pair without any gradient has scale 0, since nothing can balance it."""
        return self._scales

    def take_missed(self) -> int:
        """Tells how many measures of pairs were not finite since the last call."""
        missed, self._missed_now = self._missed_now, 0
        return missed

    def _balanced(self) -> Tensor:
        if not self.started:
            return torch.zeros_like(self._pairs)
        tiny = torch.finfo(torch.float32).tiny
        task, pairs = self._task / self._task_weight.clamp_min(tiny), self._pairs / self._pair_weights.clamp_min(tiny)
        return torch.where(self._pairs > 0, task / pairs.clamp_min(tiny), 0.0).sqrt()

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "task": self._task,
            "pairs": self._pairs,
            "task_weight": self._task_weight,
            "pair_weights": self._pair_weights,
            "missed": self.missed,
            "asked": self._asked,
            "count": torch.tensor(self._count),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._task, self._pairs, self._count = state["task"], state["pairs"], int(state["count"])
        self._task_weight, self._pair_weights = state["task_weight"], state["pair_weights"]
        self.missed, self._asked = state["missed"], state["asked"]
        self._scales = self._balanced()


class NoBalance:
    """A balance that measures nothing: every pair has the size of its own gradient, scale 1, or given scales (T, S)."""

    started = True

    def __init__(self, shape: tuple[int, int], scales: Tensor | None = None) -> None:
        self._scales = torch.ones(shape) if scales is None else scales

    def scales(self) -> Tensor:
        return self._scales

    def take_missed(self) -> int:
        return 0

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def gains(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> Params:
    """Tells how far the next update moves each number for its gradient, beside the others; {} where all move alike.

    Adam and its kin divide by the root of the mean square v of the gradients so far: 1 / (sqrt(v + floor) + eps), times the root
    of the mean of v, so that gradients keep their size. Since the next gradient itself counts 1 - b2 in v, floor is that share of
    the mean of v in the parameter: a number that has had no gradient yet has no boundless gain. Of optimisers that are not known
    here, all move alike.
    """
    if not isinstance(optimizer, (Adam, AdamW, NAdam, RMSprop)) or not optimizer.state:
        return {}
    squares, found = dict[str, Tensor](), dict[str, Tensor]()
    of_group = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, p in parameters.items():
        if kept := optimizer.state.get(p, {}):
            squares[name] = _mean_square(of_group[id(p)], kept)
    total = torch.stack([v.sum() for v in squares.values()]).sum() / sum(v.numel() for v in squares.values())
    for name, v in squares.items():
        group = of_group[id(parameters[name])]
        floor = (1 - _decay(group)) * v.mean()
        found[name] = total.sqrt() / ((v + floor).sqrt() + group["eps"])
    return found


def _decay(group: Mapping[str, Any]) -> float:
    """What the mean square keeps of itself at a step."""
    return float(group["betas"][1] if "betas" in group else group["alpha"])


def _mean_square(group: Mapping[str, Any], kept: Mapping[str, Tensor]) -> Tensor:
    """As the step takes it: RMSprop's own is biased towards 0 at first, all its numbers alike."""
    return kept["exp_avg_sq"] / (1 - _decay(group) ** float(kept["step"])) if "betas" in group else kept["square_avg"]
