"""MobileNetV2 and the ShuffleNets for 32x32 images, against the sizes that are published and shapes worked out by hand."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from kd_hpo.config.methods import widened
from kd_hpo.config.trial import Network
from kd_hpo.errors import ConfigError
from kd_hpo.nets.cifar_mobile import ChannelShuffle
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.zoo import build_network

NAMES = ["cifar_mobilenetv2", "cifar_shufflenetv1", "cifar_shufflenetv2"]


def built(name: str, classes: int = 100, shape: tuple[int, int, int] = (3, 32, 32), **arguments: object) -> nn.Module:
    return build_network(name, arguments, shape, classes, seed=0)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(inside: int, outside: int, kernel: int = 1, groups: int = 1) -> int:
    """Weights, and scale and shift of a BN after it."""
    return inside * outside * kernel**2 // groups + 2 * outside


def depthwise(channels: int) -> int:
    return conv(channels, channels, 3, channels)


def mobilenetv2(classes: int) -> int:
    """Sandler et al. 2018, table 2, at width 0.5 with a head of 1280 channels; blocks of one expansion have its 1x1 too."""
    total, inside = conv(3, 16, 3), 16
    for t, outside, blocks in ((1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1)):
        for _ in range(blocks):
            total += conv(inside, t * inside) + depthwise(t * inside) + conv(t * inside, outside)
            inside = outside
    return total + conv(160, 1280) + (1280 + 1) * classes


def shufflenetv1(classes: int) -> int:
    """Zhang et al. 2018, table 1, 3 groups; a unit of stride 2 makes what the input leaves, with a quarter of that inside."""
    total, inside = conv(3, 24), 24
    for outside, units in ((240, 4), (480, 8), (960, 4)):
        for unit in range(units):
            made = outside if unit else outside - inside
            groups = 1 if inside == 24 and not unit else 3
            total += conv(outside if unit else inside, made // 4, 1, groups) + depthwise(made // 4) + conv(made // 4, made, 1, 3)
        inside = outside
    return total + (960 + 1) * classes


def shufflenetv2(classes: int) -> int:
    """Ma et al. 2018, table 5, at width 1."""
    total = conv(3, 24)
    for (inside, outside), units in zip(pairwise((24, 116, 232, 464)), (3, 7, 3), strict=True):
        half = outside // 2
        total += depthwise(inside) + conv(inside, half) + conv(inside, half) + depthwise(half) + conv(half, half)
        total += units * (2 * conv(half, half) + depthwise(half))
    return total + conv(464, 1024) + (1024 + 1) * classes


@pytest.mark.parametrize(
    ("name", "counted", "millions"),
    [
        ("cifar_mobilenetv2", mobilenetv2(100), 0.81),
        ("cifar_shufflenetv1", shufflenetv1(100), 0.95),
        ("cifar_shufflenetv2", shufflenetv2(100), 1.36),
    ],
)
def test_parameters_are_those_counted_by_hand_and_published(name: str, counted: int, millions: float) -> None:
    """The millions are those of the tables of RepDistiller's protocol, for CIFAR-100."""
    with torch.device("meta"):
        assert parameters(built(name)) == counted
    assert round(counted / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("cifar_mobilenetv2", [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2), (1280, 2)]),
        ("cifar_shufflenetv1", [(24, 32), (240, 16), (480, 8), (960, 4)]),
        ("cifar_shufflenetv2", [(24, 32), (116, 16), (232, 8), (464, 4), (1024, 4)]),
    ],
)
def test_stages_are_layers(name: str, layers: list[tuple[int, int]]) -> None:
    network = built(name, 10)
    names = [each for each, _ in network.named_children()]
    with FeatureTap(network, names) as tap:
        logits, features = tap(torch.zeros(2, 3, 32, 32))
    assert [tuple(f.shape[1:]) for f in features] == [*((c, s, s) for c, s in layers), (layers[-1][0],), (10,)]
    assert torch.equal(features[-1], logits)


@pytest.mark.parametrize("name", NAMES)
def test_reads_any_images_calls_every_module_once_and_trains_all_parameters(name: str) -> None:
    assert built(name, 7, (1, 28, 28))(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    network, calls = built(name, 7, (5, 8, 8)), list[str]()
    for each, module in network.named_modules():
        module.register_forward_hook(lambda *_, each=each: calls.append(each))
    network(torch.randn(3, 5, 8, 8)).square().sum().backward()
    assert sorted(calls) == sorted(each for each, _ in network.named_modules())
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_shuffle_deals_one_channel_of_each_group_in_turn() -> None:
    x: Tensor = torch.arange(6.0).view(1, 6, 1, 1)
    assert ChannelShuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("name", "arguments", "fact"),
    [
        ("cifar_shufflenetv1", {"channels": 100}, "multiple of 12"),
        ("cifar_shufflenetv2", {"channels": [116, 232]}, "three even numbers"),
        ("cifar_mobilenetv2", {"width": "wide"}, "cannot be built"),
    ],
)
def test_what_cannot_be_built_is_told(name: str, arguments: dict[str, object], fact: str) -> None:
    with pytest.raises(ConfigError, match=fact):
        built(name, **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_an_assistant_is_wider(name: str) -> None:
    wider = widened(Network(name=name), 1.5)
    assert parameters(built(wider.name, **wider.arguments)) > 1.5 * parameters(built(name))
