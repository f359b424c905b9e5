"""A user's own network, as the tests of `package.module:callable` find it."""

from collections import OrderedDict
from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def two_layers(input_shape: tuple[int, int, int], classes: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))


def with_vector_norm(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Batch norm of vectors, which has no variance in a batch of one."""
    conv = nn.Conv2d(input_shape[0], 4, 3)
    parts = {"conv": conv, "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "norm": nn.BatchNorm1d(4)}
    return nn.Sequential(OrderedDict(parts, fc=nn.Linear(4, classes)))


class Convolutions(nn.Sequential):
    """Two layers, of an activation of one's own."""

    def __init__(self, shape: tuple[int, int, int], classes: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(shape[0], 4, 3, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)
        self.fc, self._activation = nn.Linear(4 * prod(shape[1:]) // 4, classes), activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self._activation(self.conv1(x)))
        return self.fc(self._activation(y).flatten(1))


class MemorySaving(torch.autograd.Function):
    """x sigmoid(x), without a rule for forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * s * (1 + x * (1 - s))


def plain_swish(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Convolutions(input_shape, classes, nn.functional.silu)


def memory_saving_swish(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Convolutions(input_shape, classes, MemorySaving.apply)


class TwoHeads(Convolutions):
    """As with auxiliary heads: a dict in training."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape, classes, torch.relu)
        self.aux = nn.Linear(self.fc.in_features, classes)

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return {"logits": logits, "aux": logits} if self.training else logits


def two_heads(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return TwoHeads(input_shape, classes)


class Checkpointed(Convolutions):
    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.conv1, x.requires_grad_(), use_reentrant=True)
        return self.fc(self.conv2(y).flatten(1))


def checkpointed(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Checkpointed(input_shape, classes, torch.relu)


class Untrainable(Convolutions):
    """Its own code fails in training alone."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise ValueError("no such stage")
        return super().forward(x)


def untrainable(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Untrainable(input_shape, classes, torch.relu)


def normed(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), 8), nn.BatchNorm1d(8), nn.Linear(8, classes))


def with_dropout(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    hidden = nn.Linear(prod(input_shape), 8)
    return nn.Sequential(nn.Flatten(), hidden, nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes))


def infinite(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Convolutions(input_shape, classes, lambda x: torch.log(torch.relu(x)))


class StochasticDepth(Convolutions):
    """With a branch that is left out at random for each image, as torchvision's and timm's networks have."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(shape, classes, torch.relu)
        self.branch, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop = torchvision.ops.StochasticDepth(0.5, "row")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv1(x))
        y = self.conv2(y + self.drop(self.norm(self.branch(y))))
        return self.fc(torch.tanh(y).flatten(1))


def with_stochastic_depth(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return StochasticDepth(input_shape, classes)
