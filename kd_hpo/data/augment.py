"""Random views of a batch of images, drawn on its device from a seeded generator."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """(B, C, H, W), each image mirrored left to right with probability one half."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """(B, C, H, W), each image moved by up to an eighth of its side both ways; what comes in at the border is 0, the mean."""
    height, width = x.shape[2:]
    dy, dx = height // 8, width // 8
    padded = F.pad(x, (dx, dx, dy, dy))
    top = torch.randint(2 * dy + 1, (len(x),), generator=generator)
    left = torch.randint(2 * dx + 1, (len(x),), generator=generator)
    rows = (top[:, None] + torch.arange(height)).to(x.device)[:, None, :, None]
    columns = (left[:, None] + torch.arange(width)).to(x.device)[:, None, None, :]
    images, channels = torch.arange(len(x), device=x.device), torch.arange(x.shape[1], device=x.device)
    return padded[images[:, None, None, None], channels[None, :, None, None], rows, columns]


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"flip": flip, "crop": crop}


def augmented(x: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    for name in names:
        x = AUGMENTATIONS[name](x, generator)
    return x
