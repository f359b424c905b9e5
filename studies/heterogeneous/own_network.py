"""A network of one's own: any callable that returns a module; it is told the images' shape and the number of classes."""

from math import prod

from torch import nn


def two_layers(input_shape: tuple[int, int, int], classes: int, hidden: int) -> nn.Module:
    first = nn.Linear(prod(input_shape), hidden)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(hidden, classes))
