"""Random views of a batch of images, on the images' device; all that is random comes from a seeded CPU generator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class View:
    """A batch as training sees it."""

    x: Tensor
    """(B, C, H, W)."""
    labels: Tensor
    """(B,)."""
    partners: Tensor
    """(B,), the labels of the images mixed in."""
    share: float
    """Of the image itself, in [0, 1]: 1 where nothing is mixed in."""

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Of (B, K): the mean over the batch, each label with its share."""
        own = F.cross_entropy(logits, self.labels)
        if self.share == 1:
            return own
        return self.share * own + (1 - self.share) * F.cross_entropy(logits, self.partners)


def flip(x: Tensor, generator: Generator) -> Tensor:
    """(B, C, H, W), each image mirrored left to right with probability one half."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(3), x)


def crop(x: Tensor, generator: Generator) -> Tensor:
    """(B, C, H, W), each image moved by up to an eighth of its side both ways; what comes in at the border is 0, the mean."""
    height, width = x.shape[2:]
    dy, dx = height // 8, width // 8
    windows = F.pad(x, (dx, dx, dy, dy)).unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 dy + 1, 2 dx + 1, H, W), a view
    top = torch.randint(2 * dy + 1, (len(x),), generator=generator).to(x.device)
    left = torch.randint(2 * dx + 1, (len(x),), generator=generator).to(x.device)
    return windows[torch.arange(len(x), device=x.device), :, top, left]


def cutout(x: Tensor, generator: Generator) -> Tensor:
    """(B, C, H, W), each with a square set to 0, the mean (DeVries & Taylor 2017).

    Its side is half the shorter side of the image, their 16 of CIFAR-10's 32 pixels; its centre is any pixel, so that it
    may reach over the border.
    """
    height, width = x.shape[2:]
    side = min(height, width) // 2
    rows = _covered(height, side, torch.randint(height, (len(x), 1), generator=generator))
    columns = _covered(width, side, torch.randint(width, (len(x), 1), generator=generator))
    return torch.where((rows[:, None, :, None] & columns[:, None, None, :]).to(x.device), 0.0, x)


def _covered(length: int, side: int, centre: Tensor) -> Tensor:
    """(B, length) bool, true where the square about the centre (B, 1) lies."""
    start, pixel = centre - side // 2, torch.arange(length)
    return (start <= pixel) & (pixel < start + side)


def mixup(x: Tensor, labels: Tensor, generator: Generator, alpha: float = 1.0) -> View:
    """Each image mixed with another of its batch, all with one share drawn from Beta(alpha, alpha) (Zhang et al. 2018)."""
    # torch's Beta takes no generator, so that its seed is drawn instead
    share = float(np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha))
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return View(share * x + (1 - share) * x[partner], labels, labels[partner], share)


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {"flip": flip, "crop": crop, "cutout": cutout}
"""What changes images alone; `view` knows mixup too, which mixes labels."""


def view(x: Tensor, labels: Tensor, names: Sequence[str], generator: Generator) -> View:
    """The augmentations of x (B, C, H, W) in the order of their names, mixup last wherever it is named."""
    for name in names:
        if name != "mixup":
            x = AUGMENTATIONS[name](x, generator)
    return mixup(x, labels, generator) if "mixup" in names else View(x, labels, labels, 1.0)
