"""Every random number of a trial comes from its seed: one stream a purpose, and torch's global state for dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

ORDER, OUTER, REGRESSORS, WEIGHTING, SHUFFLE, VIEW, BALANCE, HESSIAN, NEGATIVES = range(9)


def generator(seed: int, purpose: int, *position: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.default_rng([seed, purpose, *position]).integers(2**31)))


def random_state() -> dict[str, Tensor]:
    """The state of torch's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Keeps the random state: what is drawn inside does not change what is drawn after."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
