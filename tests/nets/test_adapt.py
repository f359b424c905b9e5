"""Channels, classes, sizes and stems of networks that a library built."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from kd_hpo.errors import ConfigError
from kd_hpo.nets.adapt import set_channels, set_classes, set_image_size, shrink_stem


def images(channels: int, side: int = 8) -> Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pretrained_weights_read_a_repeated_grey_image_as_before(channels: int) -> None:
    network, grey = conv_net(), images(1)
    expected = network(grey.repeat(1, 3, 1, 1))
    set_channels(network, channels, pretrained=True)
    assert network[0].in_channels == channels and network[0].weight.shape == (4, channels, 3, 3)
    torch.testing.assert_close(network(grey.repeat(1, channels, 1, 1)), expected)


def test_fresh_weights_are_drawn_for_other_channels_and_stay_for_the_same() -> None:
    network = conv_net()
    before = network[0].weight.detach().clone()
    set_channels(network, 3, pretrained=False)
    assert torch.equal(network[0].weight, before)
    set_channels(network, 500, pretrained=False)
    assert network[0].weight.std().item() == pytest.approx((2 / (4 * 9)) ** 0.5, rel=0.05)  # He's fan-out: 4 channels, 3x3
    assert network(images(500)).shape == (2, 6)


def test_an_input_transform_of_three_channels_goes() -> None:
    network = conv_net()
    network.transform_input = True
    set_channels(network, 1, pretrained=True)
    assert network.transform_input is False


def test_the_head_is_replaced_where_the_number_of_classes_differs() -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 7), nn.ReLU())
    body, head = network[0], network[1]
    set_classes(network, 7, 7)
    assert network[1] is head
    set_classes(network, 7, 3)
    assert network[0] is body and network[1] is not head and network(torch.zeros(2, 5)).shape == (2, 3)


def test_a_head_of_convolution_is_replaced_by_one() -> None:
    network = conv_net()
    set_classes(network, 6, 9)
    assert network(images(3)).shape == (2, 9)


def test_the_positions_of_a_vit_follow_the_image_size() -> None:
    torch.manual_seed(0)
    network = VisionTransformer(image_size=16, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    before = network.encoder.pos_embedding.detach().clone()  # a class token and 4x4 patches
    set_image_size(network, 28)
    after = network.encoder.pos_embedding.detach()
    assert network.eval()(images(3, 28)).shape == (2, 3)
    assert after.shape == (1, 1 + 7 * 7, 8) and torch.equal(after[:, 0], before[:, 0])
    corners = after[:, 1:].unflatten(1, (7, 7))[:, ::6, ::6], before[:, 1:].unflatten(1, (4, 4))[:, ::3, ::3]
    torch.testing.assert_close(*corners)  # corners stay where corners are aligned


def stem(kernel: int, stride: int, *, pool: bool) -> nn.Sequential:
    pools = [nn.MaxPool2d(3, 2, 1)] if pool else []
    return nn.Sequential(nn.Conv2d(3, 4, kernel, stride, padding=kernel // 2), nn.ReLU(), *pools, nn.Conv2d(4, 4, 3, 2, 1))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (7, 2), (11, 4)])
def test_a_small_stem_keeps_the_size(kernel: int, stride: int, pool: bool) -> None:
    network = stem(kernel, stride, pool=pool)
    before = network[0].weight.detach().clone()
    shrink_stem(network)
    assert network[:-1](images(3, 32)).shape == (2, 4, 32, 32)
    assert network(images(3, 32)).shape == (2, 4, 16, 16)  # the next convolution keeps its stride
    assert network[0].weight.shape == (4, 3, 3, 3)
    assert kernel > 3 or torch.equal(network[0].weight, before)


def test_a_pool_after_the_second_convolution_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2))
    shrink_stem(network)
    assert network(images(3, 32)).shape == (2, 4, 16, 16)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 4, 4)), "patches of 4x4"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), "no strided convolution"),
    ],
)
def test_where_there_is_no_such_stem_it_is_told(network: nn.Module, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        shrink_stem(network)
