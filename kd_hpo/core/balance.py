"""Makes pairs comparable: each pair's gradient at its student layer becomes as large as the task's gradient there."""

import torch
from torch import Tensor


class GradientBalance:
    """scale_ts = |dL_task / dh_s| / |dD_ts / dh_s|, from running averages of both norms.

    decay     factor of the running averages; they are unbiased, so the first measure counts in full
    measures  how many measures must stand before the pairs are switched on: until then every scale is 0
    """

    def __init__(self, shape: tuple[int, int], *, decay: float, measures: int) -> None:
        self._decay, self._needed = decay, measures
        self._task, self._pairs = torch.zeros(shape[1]), torch.zeros(shape)
        self._count = 0

    def observe(self, task_norms: Tensor, pair_norms: Tensor) -> None:
        """task_norms (S,), pair_norms (T, S): Frobenius norms over the batch, of both for the same batch."""
        self._count += 1
        self._task = torch.lerp(task_norms.to(self._task), self._task, self._decay)
        self._pairs = torch.lerp(pair_norms.to(self._pairs), self._pairs, self._decay)

    def scales(self) -> Tensor:
        """(T, S); a pair without any gradient has scale 0, since nothing can balance it."""
        if self._count < self._needed:
            return torch.zeros_like(self._pairs)
        return torch.where(self._pairs > 0, self._task / self._pairs.clamp_min(torch.finfo(torch.float32).tiny), 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        return {"task": self._task, "pairs": self._pairs, "count": torch.tensor(self._count)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._task, self._pairs, self._count = state["task"], state["pairs"], int(state["count"])


class NoBalance:
    """Every pair keeps the size of its own gradient: scale 1."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._scales = torch.ones(shape)

    def scales(self) -> Tensor:
        return self._scales

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...
