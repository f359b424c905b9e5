"""Normalised rows and channels, with finite slopes also where there is nothing to divide by."""

import torch
from torch import Tensor

_SHORTEST = 1e-12


def unit_rows(x: Tensor) -> Tensor:
    """Divides each row of (..., M) by its L2 norm; a row of zeros stays so, and a gradient passes through it as it is."""
    return x * inverse_norm(x.square().sum(-1, keepdim=True))


def inverse_norm(squared: Tensor) -> Tensor:
    """One over the root of squared norms; 1 where the norm is nothing."""
    return torch.where(squared > _SHORTEST**2, squared, 1.0).rsqrt()


def batch_normalised(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Batch norm of (B, N, C) over B and N, always by the batch's own statistics: there are none that a forward moves."""
    centred = x - x.mean((0, 1))
    return centred * ((centred.square().mean((0, 1)) + 1e-5).rsqrt() * gain) + shift
