"""A user's own network, as the tests of `package.module:callable` find it."""

from math import prod

from torch import nn


def two_layers(input_shape: tuple[int, int, int], classes: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))
