"""Makes pairs comparable: each pair's gradient in the student's parameters becomes as large as the task's there."""

import torch
from torch import Tensor


class GradientBalance:
    """scale_ts = |dL_task / dw| / |dD_ts / dw|, from running averages of both squared norms.

    At a pair's own layer, a gradient says little of what it does to the student: most of one that enters early is lost on
    the few parameters below it. In the parameters, pairs of all depths pull equally hard.
    decay     factor of the running averages; they are unbiased, so the first measure counts in full
    measures  how many measures must stand before the pairs are switched on: until then every scale is 0
    """

    def __init__(self, shape: tuple[int, int], *, decay: float, measures: int) -> None:
        self._decay, self._needed = decay, measures
        self._task, self._pairs = torch.zeros(()), torch.zeros(shape)
        self._count = 0
        self._scales = torch.zeros(shape)

    def observe(self, task: Tensor, pairs: Tensor, measured: Tensor | None = None) -> None:
        """task (), pairs (T, S): squared norms, or unbiased estimates of them from the same random direction.

        measured  (T, S), where some pairs were not measured: False for those, which stay as they are, for good
        """
        self._count += 1
        self._task = torch.lerp(task.to(self._task), self._task, self._decay)
        averages = torch.lerp(pairs.to(self._pairs), self._pairs, self._decay)
        self._pairs = averages if measured is None else torch.where(measured.to(averages.device), averages, self._pairs)
        self._scales = self._balanced()

    @property
    def started(self) -> bool:
        """Whether enough measures stand."""
        return self._count >= self._needed

    def scales(self) -> Tensor:
        """(T, S); a pair without any gradient has scale 0, since nothing can balance it."""
        return self._scales

    def _balanced(self) -> Tensor:
        if not self.started:
            return torch.zeros_like(self._pairs)
        ratio = self._task / self._pairs.clamp_min(torch.finfo(torch.float32).tiny)
        return torch.where(self._pairs > 0, ratio, 0.0).sqrt()

    def state_dict(self) -> dict[str, Tensor]:
        return {"task": self._task, "pairs": self._pairs, "count": torch.tensor(self._count)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._task, self._pairs, self._count = state["task"], state["pairs"], int(state["count"])
        self._scales = self._balanced()


class NoBalance:
    """Every pair keeps the size of its own gradient: scale 1."""

    started = True

    def __init__(self, shape: tuple[int, int]) -> None:
        self._scales = torch.ones(shape)

    def scales(self) -> Tensor:
        return self._scales

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...
