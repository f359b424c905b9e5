"""Small networks for 32x32 images of published comparisons, in RepDistiller's definitions (Tian et al. 2020).

They read any images that are large enough, of any channels; input_shape is (C, H, W).
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from kd_hpo.errors import ConfigError
from kd_hpo.nets.cifar import Shape, classifier, conv

_MOBILE_STAGES = (
    ((1, 16, 1, 1), (0, 24, 2, 1)),
    ((0, 32, 3, 2),),
    ((0, 64, 4, 2), (0, 96, 3, 1)),
    ((0, 160, 3, 2), (0, 320, 1, 1)),
)
"""Of each stage its (expansion, channels at width 1, blocks, stride of the first block); 0 is the network's own expansion."""


class InvertedResidual(nn.Module):
    """A 1x1 convolution to `expansion` times the channels, a depthwise 3x3 one, and 1x1 back (Sandler et al. 2018), with ReLU."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * inside
        self.expand = nn.Sequential(conv(inside, wide, 1), nn.BatchNorm2d(wide), nn.ReLU())
        self.depthwise = nn.Sequential(conv(wide, wide, 3, stride, groups=wide), nn.BatchNorm2d(wide), nn.ReLU())
        self.project = nn.Sequential(conv(wide, outside, 1), nn.BatchNorm2d(outside))
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class GroupedShuffle(nn.Module):
    """ShuffleNet's unit (Zhang et al. 2018): 1x1 convolutions in groups about a depthwise 3x3 one, and a shuffle after the first.

    With stride 2, what it makes goes beside the averaged input, so that both together have `outside` channels; inside, it has a
    quarter of the channels that it makes. The first unit's first convolution has one group.
    """

    def __init__(self, inside: int, outside: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        made = outside - inside if stride == 2 else outside
        narrow = made // 4
        self.reduce = nn.Sequential(conv(inside, narrow, 1, groups=first_groups), nn.BatchNorm2d(narrow), nn.ReLU())
        self.shuffle = ChannelShuffle(first_groups)
        self.depthwise = nn.Sequential(conv(narrow, narrow, 3, stride, groups=narrow), nn.BatchNorm2d(narrow), nn.ReLU())
        self.expand = nn.Sequential(conv(narrow, made, 1, groups=groups), nn.BatchNorm2d(made))
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        self.relu, self.beside = nn.ReLU(), stride == 2

    def forward(self, x: Tensor) -> Tensor:
        y, short = self.expand(self.depthwise(self.shuffle(self.reduce(x)))), self.shortcut(x)
        out: Tensor = self.relu(torch.cat([y, short], 1) if self.beside else y + short)
        return out


class SplitShuffle(nn.Module):
    """ShuffleNetV2's unit (Ma et al. 2018): half the channels stay, half go through 1x1, depthwise 3x3, 1x1; then a shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kept = channels // 2
        self.branch = _branch(channels - self.kept, channels - self.kept, 1)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shuffle(torch.cat([x[:, : self.kept], self.branch(x[:, self.kept :])], 1))
        return out


class DownShuffle(nn.Module):
    """ShuffleNetV2's unit of stride 2: both branches read all channels, and give half of `outside` each."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.short = nn.Sequential(
            conv(inside, inside, 3, 2, groups=inside),
            nn.BatchNorm2d(inside),
            conv(inside, half, 1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )
        self.branch = _branch(inside, outside - half, 2)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shuffle(torch.cat([self.short(x), self.branch(x)], 1))
        return out


class ChannelShuffle(nn.Module):
    """Deals the channels of `groups` out, one of each in turn: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        dealt: Tensor = x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return dealt


def cifar_mobilenetv2(input_shape: Shape, classes: int, expansion: int = 6, width: float = 0.5) -> nn.Sequential:
    """MobileNetV2 for small images (Sandler et al. 2018): stem, stage1 to stage4, head, pool, fc; T = `expansion`.

    A stage is what has one resolution: of 32x32 images 16, 8, 4 and 2 pixels. The head has 1280 channels, more above width 1.
    """
    inside = int(32 * width)
    parts = OrderedDict[str, nn.Module](stem=_conv_norm_relu(input_shape[0], inside, 3, 2))
    for i, of_stage in enumerate(_MOBILE_STAGES, 1):
        blocks = []
        for fixed, channels, count, stride in of_stage:
            for block in range(count):
                outside = int(channels * width)
                blocks.append(InvertedResidual(inside, outside, 1 if block else stride, fixed or expansion))
                inside = outside
        parts[f"stage{i}"] = nn.Sequential(*blocks)
    last = int(1280 * max(width, 1))
    parts["head"] = _conv_norm_relu(inside, last)
    return classifier(parts, last, classes)


def cifar_shufflenetv1(input_shape: Shape, classes: int, channels: int = 240, groups: int = 3) -> nn.Sequential:
    """ShuffleNet for small images (Zhang et al. 2018): stem, stage1 to stage3 of 1, 2 and 4 times `channels`, pool, fc.

    Raises ConfigError for channels that do not go into the groups.
    """
    if channels % (4 * groups) or channels <= 24:
        raise ConfigError(
            f"cifar_shufflenetv1 has no channels {channels} in {groups} groups; channels is a multiple of {4 * groups} above 24"
        )
    inside = 24
    parts = OrderedDict[str, nn.Module](stem=_conv_norm_relu(input_shape[0], inside))
    for i, (outside, units) in enumerate(zip((channels, 2 * channels, 4 * channels), (4, 8, 4), strict=True), 1):
        first = GroupedShuffle(inside, outside, 2, groups, 1 if i == 1 else groups)
        rest = (GroupedShuffle(outside, outside, 1, groups, groups) for _ in range(units - 1))
        parts[f"stage{i}"], inside = nn.Sequential(first, *rest), outside
    return classifier(parts, inside, classes)


def cifar_shufflenetv2(
    input_shape: Shape, classes: int, channels: Sequence[int] = (116, 232, 464), last: int = 1024
) -> nn.Sequential:
    """ShuffleNetV2 for small images (Ma et al. 2018): stem, stage1 to stage3 of these channels, head of `last`, pool, fc.

    Raises ConfigError for anything but three even numbers of channels.
    """
    if len(channels) != 3 or any(each % 2 for each in channels):
        raise ConfigError(f"cifar_shufflenetv2 has no channels {list(channels)}; channels is three even numbers, of its stages")
    parts = OrderedDict[str, nn.Module](stem=_conv_norm_relu(input_shape[0], 24))
    for i, ((inside, outside), units) in enumerate(zip(pairwise((24, *channels)), (3, 7, 3), strict=True), 1):
        parts[f"stage{i}"] = nn.Sequential(DownShuffle(inside, outside), *(SplitShuffle(outside) for _ in range(units)))
    parts["head"] = _conv_norm_relu(channels[-1], last)
    return classifier(parts, last, classes)


def _branch(inside: int, channels: int, stride: int) -> nn.Sequential:
    """1x1 with ReLU, depthwise 3x3 without, 1x1 with ReLU; BN after each."""
    return nn.Sequential(
        *_conv_norm_relu(inside, channels),
        *(conv(channels, channels, 3, stride, groups=channels), nn.BatchNorm2d(channels)),
        *_conv_norm_relu(channels, channels),
    )


def _conv_norm_relu(inside: int, outside: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inside, outside, kernel, stride), nn.BatchNorm2d(outside), nn.ReLU())
