"""A user's own network, as the tests of `package.module:callable` find it."""

from collections import OrderedDict
from math import prod

from torch import nn


def two_layers(input_shape: tuple[int, int, int], classes: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))


def with_vector_norm(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Batch norm of vectors, which has no variance in a batch of one."""
    conv = nn.Conv2d(input_shape[0], 4, 3)
    parts = {"conv": conv, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "norm": nn.BatchNorm1d(4)}
    return nn.Sequential(OrderedDict(parts, fc=nn.Linear(4, classes)))
