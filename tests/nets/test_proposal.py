"""What `layers: auto` stands for: in each network, what one would name by hand; and each of it can be tapped."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from kd_hpo.core.plan import LayerShape
from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import FeatureTap, layer_shapes
from kd_hpo.nets.proposal import propose_layers
from kd_hpo.nets.zoo import build_network


def proposed(network: nn.Module, size: int = 64) -> dict[str, str]:
    """Name -> channels x height x width, of features that a tap has read."""
    names = propose_layers(network, (3, size, size))
    with FeatureTap(network, names) as tap:
        shapes: Sequence[LayerShape] = layer_shapes(tap, (3, size, size))
    return {s.name: f"{s.channels}x{s.height}x{s.width}" for s in shapes}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "layer1 layer2 layer3 layer4 fc:input"),
        ("vgg11", "features.2 features.5 features.10 features.15 features.19 classifier.4"),
        ("vgg11_bn", "features.3 features.7 features.14 features.21 features.27 classifier.4"),
        ("mobilenet_v2", "features.1 features.3 features.6 features.13 features.18 classifier.1:input"),
        ("mobilenet_v3_small", "features.1 features.3 features.8 features.12 classifier.1"),
        ("shufflenet_v2_x1_0", "stage2 stage3 stage4 conv5 fc:input"),
        ("densenet121", "features.denseblock1 features.denseblock2 features.denseblock3 features.denseblock4 classifier:input"),
        ("squeezenet1_1", "features.4 features.7 features.10 features.12"),
        ("efficientnet_b0", "features.1 features.2 features.3 features.5 features.8 classifier.1:input"),
        ("regnet_y_400mf", "trunk_output.block1 trunk_output.block2 trunk_output.block3 trunk_output.block4 fc:input"),
        ("convnext_tiny", "features.1 features.3 features.5 features.7 classifier.2:input"),
        ("swin_t", "features.1 features.3 features.5 features.7 head:input"),
    ],
)
def test_torchvision(name: str, expected: str) -> None:
    size = 48 if name.startswith("vgg") else 64  # with 64 the last pooling leaves a map, and is a part of the last stage
    assert list(proposed(tv.get_model(name, num_classes=10), size)) == expected.split()


def test_googlenet() -> None:
    network = tv.googlenet(num_classes=10, aux_logits=False, init_weights=False)
    assert list(proposed(network)) == ["inception3b", "inception4e", "inception5b", "fc:input"]


def test_a_transformer_is_divided_evenly() -> None:
    network = tv.VisionTransformer(32, 8, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10)
    layers = [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)]
    assert proposed(network, 32) == dict.fromkeys(layers, "16x4x4") | {"heads.head:input": "16x1x1"}


@pytest.mark.parametrize(
    ("name", "settings", "blocks", "grid"),
    [
        ("vit_tiny_patch16_224", {"img_size": 64}, (2, 5, 8, 11), "192x4x4"),
        ("mixer_s32_224", {"img_size": 64}, (1, 3, 5, 7), "512x2x2"),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64}, (2, 5, 8, 11), "192x4x4"),
    ],
)
def test_timm(name: str, settings: dict[str, Any], blocks: tuple[int, ...], grid: str) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(name, num_classes=10, **settings)
    head, width = "head_dist" if "distilled" in name else "head", grid.split("x")[0]
    assert proposed(network) == {f"blocks.{i}": grid for i in blocks} | {f"{head}:input": f"{width}x1x1"}


def test_plain_conv() -> None:
    assert proposed(build_network("plain_conv", {}, (3, 32, 32), 10, seed=0), 32) == {
        "conv1": "16x15x15",
        "conv2": "32x6x6",
        "conv3": "64x2x2",
        "fc": "128x1x1",  # its values are those of logits:input
    }


class Functional(nn.Module):
    """All but the weights in calls of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.f1, self.f2 = nn.Linear(16 * 16, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.c1, self.c2, self.c3):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.f2(F.relu(self.f1(x.flatten(1))))


class Shared(nn.Module):
    """One in-place ReLU and one pooling for all."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.relu, self.pool, self.gap = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.c2(self.pool(self.relu(self.c1(x))))))
        return self.fc(self.gap(self.relu(self.c3(x))).flatten(1))


class Block(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Sequential() if inside == out else nn.Sequential(nn.Conv2d(inside, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.short(x))


class CifarResNet(nn.Module):
    def __init__(self, blocks: int, widths: Sequence[int] = (8, 16, 32)) -> None:
        super().__init__()
        self.stem, self.bn, self.stages = nn.Conv2d(3, widths[0], 3, 1, 1), nn.BatchNorm2d(widths[0]), len(widths)
        inside = widths[0]
        for stage, width in enumerate(widths, 1):
            made = [Block(inside if i == 0 else width, width, 2 if i == 0 and stage > 1 else 1) for i in range(blocks)]
            self.add_module(f"stage{stage}", nn.Sequential(*made))
            inside = width
        self.head = nn.Linear(inside, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"stage{stage}")(x)
        return self.head(x.mean((2, 3)))


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class TupleBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + self.mix(self.norm(x)), None


class Tuples(nn.Module):
    """Blocks that return tuples, as in libraries of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 8, 8, 8), nn.ModuleList(TupleBlock() for _ in range(4))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)[0]
        return self.fc(x.mean(1))


class Cosine(nn.Module):
    """Its logits are made by no module, and one is after them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc, self.weight, self.log = nn.Linear(16, 12), nn.Parameter(torch.randn(10, 12)), nn.LogSoftmax(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.log(F.linear(F.normalize(self.fc(self.body(x))), F.normalize(self.weight)))


def mlp(*widths: int) -> nn.Sequential:
    hidden = [(nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.1)) for a, b in zip((3072, *widths), widths, strict=False)]
    return nn.Sequential(nn.Flatten(), *(module for layer in hidden for module in layer), nn.Linear(widths[-1], 10))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (Functional, {"c1": "8x32x32", "c2": "16x16x16", "c3": "16x8x8", "f2:input": "20x1x1"}),
        (Shared, {"pool#1": "8x16x16", "pool#2": "16x8x8", "relu#3": "32x8x8", "fc:input": "32x1x1"}),
        (
            partial(CifarResNet, 3),
            {"stage1": "8x32x32", "stage2": "16x16x16", "stage3": "32x8x8", "head:input": "32x1x1"},
        ),
        (
            partial(CifarResNet, 1),
            {"stage1": "8x32x32", "stage2": "16x16x16", "stage3": "32x8x8", "head:input": "32x1x1"},
        ),
        (partial(CifarResNet, 2, (8, 16)), {"stage1": "8x32x32", "stage2": "16x16x16", "head:input": "16x1x1"}),
        (
            lambda: Wrapped(CifarResNet(2)),
            {"model.stage1": "8x32x32", "model.stage2": "16x16x16", "model.stage3": "32x8x8", "model.head:input": "32x1x1"},
        ),
        (Tuples, {**{f"blocks.{i}[0]": "8x4x4" for i in range(4)}, "fc:input": "8x1x1"}),
        (Cosine, {"body.1": "8x30x30", "body.2": "16x14x14", "fc": "12x1x1"}),
        (partial(mlp, 64, 32), {"2": "64x1x1", "5": "32x1x1"}),  # the ReLUs: after a dropout, features would be noisy
        (partial(mlp, *[16] * 8), {"5": "16x1x1", "11": "16x1x1", "17": "16x1x1", "23": "16x1x1"}),
        (partial(mlp, *range(99, 90, -1)), {str(3 * i + 2): f"{99 - i}x1x1" for i in (0, 2, 3, 5, 6, 8)}),
    ],
    ids=["functional", "shared", "cifar", "cifar1", "two stages", "wrapped", "tuples", "cosine", "mlp", "even mlp", "long mlp"],
)
def test_networks_of_ones_own(build: Callable[[], nn.Module], expected: dict[str, str]) -> None:
    assert proposed(build(), 32) == expected


@pytest.mark.parametrize("network", [nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), nn.Flatten()])
def test_nothing_before_the_logits(network: nn.Module) -> None:
    with pytest.raises(FeatureMismatch, match="could be proposed"):
        propose_layers(network, (3, 32, 32))
