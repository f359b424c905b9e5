"""Callables of a user's own, as the tests of `augment` find them."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def brighter(by: int) -> Callable[[Tensor], Tensor]:
    """Adds what all three generators draw."""

    def change(image: Tensor) -> Tensor:
        assert image.dtype == torch.uint8
        drawn = random.randrange(by) + int(np.random.randint(by)) + int(torch.randint(by, ()))
        return (image.int() + drawn).clamp(0, 255).to(torch.uint8)

    return change


def as_floats() -> Callable[[Tensor], Tensor]:
    return lambda image: image.float()


def nothing() -> None: ...
