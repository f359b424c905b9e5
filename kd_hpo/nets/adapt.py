"""Makes a library's network fit the images and the classes of a data set; the network itself is changed."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kd_hpo.errors import ConfigError


def set_channels(network: nn.Module, channels: int, *, pretrained: bool) -> None:
    """Lets the first convolution read images of `channels`.

    Pretrained weights are summed over the channels that they were made for and shared out evenly: a grey image gives what
    it gave when its channel was repeated.
    """
    conv = next(_convolutions(network))[1]
    if conv.in_channels == channels:
        return
    if pretrained:
        weight = conv.weight.detach().sum(1, keepdim=True).repeat(1, channels, 1, 1) / channels
    else:
        weight = _fresh(conv, channels, *conv.kernel_size)
    conv.weight, conv.in_channels = nn.Parameter(weight), channels
    if hasattr(network, "transform_input"):  # GoogLeNet and Inception: it mends the normalisation of three channels
        network.transform_input = False  # type: ignore[assignment]


def set_classes(network: nn.Module, before: int, classes: int) -> None:
    """Puts a fresh head in the place of the one of `before` classes; the head stays where the numbers are equal."""
    if before == classes:
        return
    name, head = next((n, m) for n, m in reversed(list(network.named_modules())) if _outputs(m) == before)
    if isinstance(head, nn.Conv2d):  # SqueezeNet
        network.set_submodule(name, nn.Conv2d(head.in_channels, classes, 1))
    else:
        network.set_submodule(name, nn.Linear(head.in_features, classes))


def set_image_size(network: Any, size: int) -> None:
    """Interpolates the positions of torchvision's ViT for images of size x size; `size` is a multiple of its patches."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = OrderedDict(network.state_dict())
    positions = interpolate_embeddings(size, network.patch_size, state)["encoder.pos_embedding"]
    network.encoder.pos_embedding = nn.Parameter(positions)
    network.image_size, network.seq_length = size, positions.shape[1]


def shrink_stem(network: nn.Module) -> None:
    """Keeps small images at their size to the end of the stem, as is usual for 32x32.

    The first strided convolution takes stride 1, with fresh 3x3 weights where its kernel is larger; a max-pool before the
    next convolution goes. Raises ConfigError where there is no such convolution, or it cuts the image into patches.
    """
    strided = next(((name, conv) for name, conv in _convolutions(network) if max(conv.stride) > 1), None)
    if strided is None:
        raise ConfigError(f"stem: small finds no strided convolution in {type(network).__name__}; omit it")
    name, conv = strided
    if conv.kernel_size == conv.stride and max(conv.stride) > 3:
        patch = "x".join(map(str, conv.stride))
        raise ConfigError(
            f"stem: small does not fit {type(network).__name__}, which cuts images into patches of {patch}; omit it, and for "
            "smaller patches take a network with the argument patch_size: timm's ViTs, Swins and ConvNeXts have it"
        )
    if max(conv.kernel_size) > 3:
        conv.weight = nn.Parameter(_fresh(conv, conv.in_channels, 3, 3))
        conv.kernel_size = (3, 3)
    conv.stride, conv.padding = (1, 1), tuple(k // 2 for k in conv.kernel_size)
    for pool in _max_pools_before_next_convolution(network, name):
        network.set_submodule(pool, nn.Identity())


def _convolutions(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))


def _max_pools_before_next_convolution(network: nn.Module, conv: str) -> list[str]:
    modules = list(network.named_modules())
    after = modules[1 + [name for name, _ in modules].index(conv) :]
    between = itertools.takewhile(lambda named: not isinstance(named[1], nn.Conv2d), after)
    return [name for name, module in between if isinstance(module, nn.MaxPool2d)]


def _fresh(conv: nn.Conv2d, channels: int, height: int, width: int) -> torch.Tensor:
    weight = torch.empty(conv.out_channels, channels // conv.groups, height, width, device=conv.weight.device)
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None
