"""The networks of published comparisons, against the sizes that are published and shapes worked out by hand."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from kd_hpo.errors import ConfigError
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.zoo import NETWORKS, build_network


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(inside: int, outside: int, kernel: int = 3) -> int:
    """Weights, and scale and shift of a BN after it."""
    return inside * outside * kernel**2 + 2 * outside


def resnet(depth: int, channels: tuple[int, int, int, int], classes: int) -> int:
    """Counted from He et al. 2016: 2n convolutions a stage, 1x1 shortcuts (option B) where the channels change."""
    n, total = (depth - 2) // 6, conv(3, channels[0])
    for inside, outside in pairwise(channels):
        total += conv(inside, outside) + (2 * n - 1) * conv(outside, outside)
        total += conv(inside, outside, 1) if inside != outside else 0
    return total + (channels[-1] + 1) * classes


def wrn(depth: int, k: int, classes: int) -> int:
    """Counted from Zagoruyko & Komodakis 2016: as above, but a BN stands before each convolution and none on a shortcut."""
    n, total = (depth - 4) // 6, 3 * 16 * 9
    for inside, outside in ((16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k)):
        total += 9 * (inside * outside + (2 * n - 1) * outside**2) + 2 * inside + 2 * (2 * n - 1) * outside
        total += inside * outside if inside != outside else 0
    return total + 2 * 64 * k + (64 * k + 1) * classes


def vgg(widths: list[int], classes: int) -> int:
    """Convolutions have biases."""
    return sum(conv(a, b) + b for a, b in pairwise([3, *widths])) + (512 + 1) * classes


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("resnet20", resnet(20, NARROW, 100)),
        ("resnet8x4", resnet(8, WIDE, 100)),
        ("resnet32x4", resnet(32, WIDE, 100)),
        ("wrn_16_1", wrn(16, 1, 100)),
        ("wrn_40_2", wrn(40, 2, 100)),
        ("vgg8", vgg([64, 128, 256, 512, 512], 100)),
        ("cifar_vgg13", vgg([64, 64, 128, 128, 256, 256, 512, 512, 512, 512], 100)),
    ],
)
def test_parameters_are_those_counted_by_hand(name: str, counted: int) -> None:
    with torch.device("meta"):
        assert parameters(build_network(name, {}, (3, 32, 32), 100, seed=0)) == counted


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        *[("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85), ("resnet110", 1.7)],
        *[("wrn_16_1", 0.2), ("wrn_16_2", 0.7), ("wrn_40_1", 0.6), ("wrn_40_2", 2.2)],
    ],
)
def test_sizes_are_the_papers(name: str, millions: float) -> None:
    """For ten classes; He et al. have shortcuts without weights (option A), so the two of 1x1 with BN are taken off."""
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64 if name.startswith("resnet") else 0
    with torch.device("meta"):
        total = parameters(build_network(name, {}, (3, 32, 32), 10, seed=0)) - shortcuts
    assert round(total / 1e6, len(str(millions)) - 2) == millions


def test_resnet20_has_the_known_number_of_parameters() -> None:
    """269,722 with option A, and 2,752 of the shortcuts."""
    assert parameters(build_network("resnet20", {}, (3, 32, 32), 10, seed=0)) == 269_722 + 2_752


def test_resnet50_is_counted_by_hand_and_as_published() -> None:
    """Published: 23.71 M for 100 classes, in tables of RepDistiller's protocol."""
    total, inside = conv(3, 64), 64
    for narrow, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        total += conv(inside, 4 * narrow, 1)
        for block in range(blocks):
            total += conv(4 * narrow if block else inside, narrow, 1) + conv(narrow, narrow) + conv(narrow, 4 * narrow, 1)
        inside = 4 * narrow
    total += (inside + 1) * 100
    with torch.device("meta"):
        assert parameters(build_network("cifar_resnet50", {}, (3, 32, 32), 100, seed=0)) == total
    assert round(total / 1e6, 2) == 23.71


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet20", [(16, 32), (16, 32), (32, 16), (64, 8)]),
        ("resnet8x4", [(32, 32), (64, 32), (128, 16), (256, 8)]),
        ("wrn_16_2", [(16, 32), (32, 32), (64, 16), (128, 8)]),
        ("vgg8", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
        ("cifar_resnet50", [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)]),
    ],
)
def test_stages_are_layers(name: str, stages: list[tuple[int, int]]) -> None:
    network = build_network(name, {}, (3, 32, 32), 10, seed=0)
    layers = [f"stage{i}" for i in range(1, 6)] if name == "vgg8" else ["stem", *(f"stage{i}" for i in range(1, len(stages)))]
    with FeatureTap(network, [*layers, "pool", "fc"]) as tap:
        logits, features = tap(torch.zeros(2, 3, 32, 32))
    assert [tuple(f.shape[1:]) for f in features] == [*((c, s, s) for c, s in stages), (stages[-1][0],), (10,)]
    assert logits is not None and torch.equal(features[-1], logits)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 48), (5, 8, 8)])
@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "wrn_16_1", "vgg8"])
def test_any_images_that_are_large_enough(name: str, shape: tuple[int, int, int]) -> None:
    assert build_network(name, {}, shape, 7, seed=0)(torch.zeros(2, *shape)).shape == (2, 7)


def test_the_families_are_the_published_names() -> None:
    for family, arguments, name in [
        ("cifar_resnet", {"depth": 8, "width": 4, "stem_channels": 32}, "resnet8x4"),
        ("wrn", {"depth": 16, "width": 2}, "wrn_16_2"),
        ("cifar_vgg", {"depth": 8}, "vgg8"),
    ]:
        general, published = (build_network(n, a, (3, 32, 32), 10, seed=3) for n, a in ((family, arguments), (name, {})))
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.equal(general(x), published(x))


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_1", "vgg8", "cifar_resnet50"])
def test_every_module_is_called_once(name: str) -> None:
    network, calls = build_network(name, {}, (3, 32, 32), 10, seed=0), list[str]()
    for each, module in network.named_modules():
        module.register_forward_hook(lambda *_, each=each: calls.append(each))
    network(torch.zeros(1, 3, 32, 32))
    assert sorted(calls) == sorted(each for each, _ in network.named_modules())


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("cifar_resnet", {}, "cannot be built with .*depth"),
        ("cifar_resnet", {"depth": 21}, r"no depth 21; .*6n \+ 2.* 20 or 26"),
        ("cifar_resnet", {"depth": 2}, "no depth 2; .* 8 or 14"),
        ("cifar_resnet", {"depth": "deep"}, "cannot be built with .*'deep'"),
        ("wrn", {"depth": 14}, r"no depth 14; .*6n \+ 4.* 10 or 16"),
        ("cifar_vgg", {"depth": 16}, "no depth 16; .* 8, 11, 13"),
        ("resnet20", {"depth": 32}, "multiple values .*'depth'"),
    ],
)
def test_what_cannot_be_built_is_told(name: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_network(name, arguments, (3, 32, 32), 10, seed=0)


def test_images_that_are_too_small_are_told() -> None:
    with pytest.raises(ConfigError, match=r"'vgg8'.* 3x4x4"):
        build_network("vgg8", {}, (3, 4, 4), 10, seed=0)


def test_every_network_takes_the_shape_and_the_classes() -> None:
    arguments = {"cifar_resnet": {"depth": 8}, "wrn": {"depth": 10}, "cifar_vgg": {"depth": 11}}
    for name in NETWORKS:
        with torch.device("meta"):
            build_network(name, arguments.get(name, {}), (1, 28, 28), 7, seed=0)  # which tries it
