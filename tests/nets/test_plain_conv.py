"""The seed paper's networks: sizes counted by hand."""

import pytest
import torch

from kd_hpo.errors import ConfigError
from kd_hpo.nets.plain_conv import PlainConv


def test_parameters_and_shapes_are_those_of_the_paper() -> None:
    network = PlainConv((3, 32, 32), 10)
    # 3x3 convolutions with bias and BN; 32 -> 15 -> 6 -> 2 without padding; 64 * 2 * 2 = 256 into the hidden layer.
    blocks = sum(9 * a * b + b + 2 * b for a, b in ((3, 16), (16, 32), (32, 64)))
    assert sum(p.numel() for p in network.parameters()) == blocks + 256 * 128 + 128 + 128 * 10 + 10
    assert [name for name, _ in network.named_children()] == ["conv1", "conv2", "conv3", "flatten", "fc", "logits"]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_padding_keeps_half_of_each_side() -> None:
    network = PlainConv((1, 8, 12), 4, channels=[2, 3], hidden=5, padding=1)
    assert network.conv2(network.conv1(torch.zeros(1, 1, 8, 12))).shape == (1, 3, 2, 3)
    assert network.fc[0].in_features == 3 * 2 * 3


@pytest.mark.parametrize(("size", "depth"), [(32, 4), (9, 3), (4, 2), (3, 1)])
def test_too_deep_for_its_images(size: int, depth: int) -> None:
    # Without padding a side goes from n to (n - 2) // 2: 32, 15, 6, 2, 0; 9, 3, 0; 4, 1, -1; 3, 0.
    fits = {32: 3, 9: 1, 4: 1, 3: 0}[size]
    if fits:
        PlainConv((1, size, size), 2, channels=[2] * fits)
    with pytest.raises(ConfigError, match=f"{size}x{size} .* conv{fits + 1}"):
        PlainConv((1, size, size), 2, channels=[2] * depth)
