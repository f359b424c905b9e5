"""A multi-layer perceptron with batch norm, as the student of fashion_mlp.yaml."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn


def mlp(input_shape: tuple[int, int, int], classes: int, hidden: Sequence[int]) -> nn.Module:
    """Layers by name: fc1, fc2, ..., logits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = prod(input_shape)
    for number, out in enumerate(hidden, 1):
        layers[f"fc{number}"] = nn.Sequential(nn.Linear(width, out), nn.BatchNorm1d(out), nn.ReLU())
        width = out
    layers["logits"] = nn.Linear(width, classes)
    return nn.Sequential(layers)
