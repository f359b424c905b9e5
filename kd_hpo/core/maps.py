"""Features of every kind read as maps, so that any two can be compared at one resolution."""

from math import isqrt

import torch.nn.functional as F
from torch import Tensor

from kd_hpo.core.plan import Size
from kd_hpo.errors import FeatureMismatch


def as_map(feature: Tensor) -> Tensor:
    """(B, C, H, W) as it is; a vector (B, C) as 1 x 1; tokens (B, N, C) as their grid where N (less one class token) is square,
    else averaged to 1 x 1."""
    if feature.dim() == 4:
        return feature
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() == 3:
        tokens = feature.shape[1]
        for skipped in (0, 1):
            side = isqrt(tokens - skipped)
            if side * side == tokens - skipped and side > 1:
                return feature[:, skipped:].transpose(1, 2).reshape(len(feature), -1, side, side)
        return feature.mean(1)[:, :, None, None]
    raise FeatureMismatch(f"a feature of shape {tuple(feature.shape)} is neither a map, tokens nor a vector; name another layer")


def pooled(feature: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) -> (B, h * w, C): averaged down to the size, one row a position."""
    small = feature if feature.shape[2:] == size else F.adaptive_avg_pool2d(feature, size)
    return small.flatten(2).transpose(1, 2)
