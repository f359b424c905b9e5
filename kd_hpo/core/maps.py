"""Features of every kind read as maps, so that any two can be compared at one resolution."""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.core.plan import LayerShape, Size
from kd_hpo.errors import FeatureMismatch

_EXTRA_TOKENS = (0, 1, 2, 5)
"""Tokens that may stand before the grid's where no map tells: none, a class token, one more for distillation (DeiT), and a class
token with four registers (DINOv2)."""
_MOST_EXTRA_TOKENS = 16


def layer_shape(name: str, feature: Tensor, image: Size | None, maps: Collection[Size] = ()) -> LayerShape:
    """Tells how a feature is read as a map, from one dry run on images of height x width; None where inputs are no images.

    (B, C, H, W) as it is, (B, H, W, C) where only so the sides have the image's proportions; tokens (B, N, C) are a grid where
    N, less a few extra tokens (of a class, registers), is the size of one of the network's own maps, such as its patches', or
    else a grid of the image's proportions.
    maps  the sizes of the maps that the network has made
    Raises FeatureMismatch for any other shape.
    """
    shape = tuple(feature.shape[1:])
    if feature.dim() == 4:
        c, h, w = shape
        last = image is not None and not _proportional((h, w), image) and _proportional((c, h), image)
        return LayerShape(name, w, c, h, channels_last=True) if last else LayerShape(name, c, h, w)
    if feature.dim() == 3:
        tokens, c = shape
        grid = (_grid_of_maps(tokens, image, maps) or _grid(tokens, image)) if image else None
        return LayerShape(name, c, *(grid or (1, 1)))
    if feature.dim() == 2:
        return LayerShape(name, shape[0], 1, 1)
    raise FeatureMismatch(
        f"layer {name!r} gives a feature of shape (B, {', '.join(map(str, shape))}), which is neither a map (B, C, H, W), "
        "tokens (B, N, C) nor a vector (B, C); name another layer"
    )


def as_map(feature: Tensor, layer: LayerShape) -> Tensor:
    """The feature as (B, C, H, W), the way `layer` says; tokens before a grid are dropped, tokens without one averaged."""
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() == 3:
        positions = layer.height * layer.width
        if positions == 1:
            return feature.mean(1)[:, :, None, None]
        grid: Tensor = feature[:, -positions:].unflatten(1, (layer.height, layer.width))
        return grid.permute(0, 3, 1, 2)
    if layer.channels_last:
        feature = feature.permute(0, 3, 1, 2)
    return feature


def pooled(feature: Tensor, size: Size) -> Tensor:
    """Averages a map down to the size, one row a position: (B, C, H, W) -> (B, h * w, C)."""
    if size == (1, 1):  # the gradient of adaptive_avg_pool2d would be laid out as (B, C, H, W) here, that of rows is not
        return rows_of(feature).mean(1, keepdim=True)
    return rows_of(feature if feature.shape[2:] == size else F.adaptive_avg_pool2d(feature, size))


def rows_of(feature: Tensor) -> Tensor:
    """A view of a map with one row a position: (B, C, H, W) -> (B, H * W, C)."""
    return feature.flatten(2).transpose(1, 2)


def gradient_in_own_layout(feature: Tensor, examples: int) -> Tensor:
    """The feature's first examples, with a gradient that is laid out in memory as the feature is.

    So the network's backward copies no large map: each of its steps takes the layout of the gradient that it is given, and is
    slow where that is not its own.
    """
    if not feature.requires_grad or (feature.dim() != 4 and examples == len(feature)):
        return feature[:examples]
    first: Tensor = _FirstExamples.apply(feature, examples)
    return first


class _FirstExamples(torch.autograd.Function):
    """As `feature[:examples]`, whose own backward fills a map of zeros in torch's standard layout."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, examples: int) -> Tensor:
        # Not split into forward and setup_context: torch would inspect this signature at every call.
        ctx.others = (len(feature) - examples, *feature.shape[1:])
        last = feature.dim() == 4 and not feature.is_contiguous()
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        return feature[:examples].view_as(feature[:examples])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous(memory_format=ctx.layout)
        if not ctx.others[0]:
            return gradient, None
        zeros = torch.zeros(ctx.others, dtype=gradient.dtype, device=gradient.device)
        return torch.cat([gradient, zeros.contiguous(memory_format=ctx.layout)]), None


def _proportional(size: Size, image: Size) -> bool:
    """Whether the sides are the image's over one factor, up to the rounding of a stride or a border."""
    (h, w), (height, width) = size, image
    return abs(h - height * w / width) <= 1 or abs(w - width * h / height) <= 1


def _grid_of_maps(tokens: int, image: Size, maps: Collection[Size]) -> Size | None:
    """The map that leaves the fewest extra tokens, fewer than it has itself."""
    fitting = [size for size in maps if 0 <= tokens - size[0] * size[1] <= _MOST_EXTRA_TOKENS and _is_grid(size, image)]
    grid = max(fitting, key=lambda size: size[0] * size[1], default=None)
    return grid if grid and tokens < 2 * grid[0] * grid[1] else None


def _is_grid(size: Size, image: Size) -> bool:
    return min(size) > 1 and _proportional(size, image)


def _grid(tokens: int, image: Size) -> Size | None:
    height, width = image
    for extra in _EXTRA_TOKENS:
        for h in range(2, tokens - extra):
            w = (tokens - extra) // h
            if h * w == tokens - extra and w > 1 and h * width == w * height:
                return h, w
    return None
