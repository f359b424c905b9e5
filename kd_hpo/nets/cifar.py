"""The networks for 32x32 images that published comparisons of distillation use, in RepDistiller's definitions (Tian et al. 2020).

They read any images that are large enough, of any channels; input_shape is (C, H, W).
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from kd_hpo.errors import ConfigError

Shape = tuple[int, int, int]
_VGG: dict[int, Sequence[Sequence[int]]] = {
    8: ((64,), (128,), (256,), (512,), (512,)),
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 one with BN where the shape changes (He et al. 2016, option B)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu1 = conv(inside, outside, 3, stride), nn.BatchNorm2d(outside), nn.ReLU()
        self.conv2, self.norm2, self.relu2 = conv(outside, outside, 3), nn.BatchNorm2d(outside), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(conv(inside, outside, 1, stride), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        out: Tensor = self.relu2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1 to four times `narrow` channels beside an identity, or a 1x1 one with BN (He et al. 2016)."""

    def __init__(self, inside: int, narrow: int, stride: int) -> None:
        super().__init__()
        outside = 4 * narrow
        self.reduce = nn.Sequential(conv(inside, narrow, 1), nn.BatchNorm2d(narrow), nn.ReLU())
        self.conv = nn.Sequential(conv(narrow, narrow, 3, stride), nn.BatchNorm2d(narrow), nn.ReLU())
        self.expand, self.relu = nn.Sequential(conv(narrow, outside, 1), nn.BatchNorm2d(outside)), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(conv(inside, outside, 1, stride), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.expand(self.conv(self.reduce(x))) + self.shortcut(x))
        return out


class PreActivationBlock(nn.Module):
    """BN and ReLU before each convolution (Zagoruyko & Komodakis 2016); a 1x1 shortcut also starts from the activation."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.relu1, self.conv1 = nn.BatchNorm2d(inside), nn.ReLU(), conv(inside, outside, 3, stride)
        self.norm2, self.relu2, self.conv2 = nn.BatchNorm2d(outside), nn.ReLU(), conv(outside, outside, 3)
        self.shortcut = None if inside == outside else conv(inside, outside, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(x))
        out: Tensor = self.conv2(self.relu2(self.norm2(self.conv1(y))))
        return out + (x if self.shortcut is None else self.shortcut(y))


def cifar_resnet(input_shape: Shape, classes: int, depth: int, width: int = 1, stem_channels: int = 16) -> nn.Sequential:
    """ResNet of 6n + 2 layers (He et al. 2016): stem, stage1 to stage3 of 16, 32 and 64 times `width` channels, pool, fc."""
    blocks = _blocks_a_stage("cifar_resnet", depth, 2)
    parts = OrderedDict[str, nn.Module](stem=_conv_norm_relu(input_shape[0], stem_channels))
    channels = (stem_channels, 16 * width, 32 * width, 64 * width)
    for i, (inside, outside) in enumerate(pairwise(channels), 1):
        parts[f"stage{i}"] = _stage(BasicBlock, inside, outside, blocks, stride=1 if i == 1 else 2)
    return classifier(parts, channels[-1], classes)


def cifar_resnet50(input_shape: Shape, classes: int) -> nn.Sequential:
    """ResNet-50 for small images (He et al. 2016): a 3x3 stem of stride 1, stage1 to stage4 of 256 to 2048 channels, pool, fc."""
    parts, inside = OrderedDict[str, nn.Module](stem=_conv_norm_relu(input_shape[0], 64)), 64
    for i, (narrow, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), 1):
        first = Bottleneck(inside, narrow, 1 if i == 1 else 2)
        inside = 4 * narrow
        parts[f"stage{i}"] = nn.Sequential(first, *(Bottleneck(inside, narrow, 1) for _ in range(blocks - 1)))
    return classifier(parts, inside, classes)


def wide_resnet(input_shape: Shape, classes: int, depth: int, width: int = 1) -> nn.Sequential:
    """WRN of 6n + 4 layers (Zagoruyko & Komodakis 2016), without dropout: stem, stage1 to stage3, norm, pool, fc."""
    blocks = _blocks_a_stage("wrn", depth, 4)
    parts = OrderedDict[str, nn.Module](stem=conv(input_shape[0], 16, 3))
    channels = (16, 16 * width, 32 * width, 64 * width)
    for i, (inside, outside) in enumerate(pairwise(channels), 1):
        parts[f"stage{i}"] = _stage(PreActivationBlock, inside, outside, blocks, stride=1 if i == 1 else 2)
    parts["norm"] = nn.Sequential(nn.BatchNorm2d(channels[-1]), nn.ReLU())
    return classifier(parts, channels[-1], classes)


def cifar_vgg(input_shape: Shape, classes: int, depth: int) -> nn.Sequential:
    """VGG of `depth` layers with BN (Simonyan & Zisserman 2015), one of them linear: stage1 to stage5, pool, fc.

    A max-pool begins each of stage2, stage3 and stage4, so images are 8x8 at least.
    Raises ConfigError for a depth other than 8, 11 and 13.
    """
    if depth not in _VGG:
        raise ConfigError(f"cifar_vgg has no depth {depth}; depth is one of {', '.join(map(str, _VGG))}")
    parts, inside = OrderedDict[str, nn.Module](), input_shape[0]
    for i, channels in enumerate(_VGG[depth], 1):
        pool = [nn.MaxPool2d(2)] if i in (2, 3, 4) else []
        convolutions = [_conv_norm_relu(a, b, bias=True) for a, b in pairwise((inside, *channels))]
        parts[f"stage{i}"] = nn.Sequential(*pool, *convolutions)
        inside = channels[-1]
    return classifier(parts, inside, classes)


def _blocks_a_stage(name: str, depth: int, beside: int) -> int:
    """n of the 6n + `beside` layers."""
    blocks, rest = divmod(depth - beside, 6)
    if rest or blocks < 1:
        near = 6 * max(1, blocks) + beside
        raise ConfigError(f"{name} has no depth {depth}; depth is 6n + {beside}, for example {near} or {near + 6}")
    return blocks


def _stage(block: type[BasicBlock | PreActivationBlock], inside: int, outside: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(block(inside, outside, stride), *(block(outside, outside, 1) for _ in range(blocks - 1)))


def conv(inside: int, outside: int, kernel: int, stride: int = 1, *, bias: bool = False, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the map's size but for its stride, with He's initial weights."""
    made = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=bias, groups=groups)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def _conv_norm_relu(inside: int, outside: int, *, bias: bool = False) -> nn.Sequential:
    return nn.Sequential(conv(inside, outside, 3, bias=bias), nn.BatchNorm2d(outside), nn.ReLU())


def classifier(parts: OrderedDict[str, nn.Module], channels: int, classes: int) -> nn.Sequential:
    """The parts, then the mean over positions and a linear layer."""
    parts["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    parts["fc"] = nn.Linear(channels, classes)
    return nn.Sequential(parts)
