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

    def over_labels(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of labels (B,): where images are mixed, that of both images' labels, with their shares."""
        own = loss(self.labels)
        if self.share == 1:
            return own
        return self.share * own + (1 - self.share) * loss(self.partners)


@dataclass(frozen=True)
class Augmentation:
    """A random change of each image by itself, in two steps: what is random is drawn for images that need not be at hand.

    draw    (B, H, W, generator) -> (B, n) numbers on the CPU
    change  x (B, C, H, W) and such numbers -> (B, C, H, W)
    """

    draw: Callable[[int, int, int, Generator], Tensor]
    change: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        return self.change(x, self.draw(len(x), x.shape[2], x.shape[3], generator))


def _draw_flip(count: int, height: int, width: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator)[:, None] < 0.5


def _flip(x: Tensor, mirrored: Tensor) -> Tensor:
    return torch.where(mirrored.to(x.device)[:, :, None, None], x.flip(3), x)


flip = Augmentation(_draw_flip, _flip)
"""(B, C, H, W), each image mirrored left to right with probability one half."""


def _draw_crop(count: int, height: int, width: int, generator: Generator) -> Tensor:
    top = torch.randint(2 * (height // 8) + 1, (count,), generator=generator)
    left = torch.randint(2 * (width // 8) + 1, (count,), generator=generator)
    return torch.stack([top, left], 1)


def _crop(x: Tensor, corners: Tensor) -> Tensor:
    height, width = x.shape[2:]
    dy, dx = height // 8, width // 8
    windows = F.pad(x, (dx, dx, dy, dy)).unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2 dy + 1, 2 dx + 1, H, W), a view
    top, left = corners.to(x.device).unbind(1)
    return windows[torch.arange(len(x), device=x.device), :, top, left]


crop = Augmentation(_draw_crop, _crop)
"""(B, C, H, W), each image moved by up to an eighth of its side both ways; what comes in at the border is 0, the mean."""


def _draw_cutout(count: int, height: int, width: int, generator: Generator) -> Tensor:
    return torch.cat([torch.randint(side, (count, 1), generator=generator) for side in (height, width)], 1)


def _cutout(x: Tensor, centres: Tensor) -> Tensor:
    height, width = x.shape[2:]
    side = min(height, width) // 2
    rows, columns = _covered(height, side, centres[:, :1]), _covered(width, side, centres[:, 1:])
    return torch.where((rows[:, None, :, None] & columns[:, None, None, :]).to(x.device), 0.0, x)


def _covered(length: int, side: int, centre: Tensor) -> Tensor:
    """(B, length) bool, true where the square about the centre (B, 1) lies."""
    start, pixel = centre - side // 2, torch.arange(length)
    return (start <= pixel) & (pixel < start + side)


cutout = Augmentation(_draw_cutout, _cutout)
"""(B, C, H, W), each with a square set to 0, the mean (DeVries & Taylor 2017).

Its side is half the shorter side of the image, their 16 of CIFAR-10's 32 pixels; its centre is any pixel, so that it may reach
over the border.
"""


def mixup(x: Tensor, labels: Tensor, generator: Generator, alpha: float = 1.0) -> View:
    """Mixes each image with another of its batch, all with one share drawn from Beta(alpha, alpha) (Zhang et al. 2018)."""
    # torch's Beta takes no generator, so that its seed is drawn instead
    share = float(np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha))
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return View(share * x + (1 - share) * x[partner], labels, labels[partner], share)


Mixing = Callable[[Tensor, Tensor, Generator], View]
"""Mixes the images x (B, C, H, W) of a batch, and their labels (B,)."""
Step = str | Augmentation | Mixing
"""One of AUGMENTATIONS or mixup by name, or one that was made."""

AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "crop": crop, "cutout": cutout}
"""What changes images alone; `view` knows mixup too, which mixes labels. Others are made by kd_hpo.data.transforms."""


def view(x: Tensor, labels: Tensor, steps: Sequence[Step], generator: Generator) -> View:
    """The augmentations of x (B, C, H, W) in their order; what mixes images is last wherever it stands."""
    mix: Mixing | None = None
    for step in steps:
        made = made_step(step)
        if isinstance(made, Augmentation):
            x = made(x, generator)
        else:
            mix = made
    return mix(x, labels, generator) if mix else View(x, labels, labels, 1.0)


def made_step(step: Step) -> Augmentation | Mixing:
    """Gives the augmentation of a name; one that was made as it is."""
    if isinstance(step, str):
        return mixup if step == "mixup" else AUGMENTATIONS[step]
    return step


class KeptViews:
    """A few random views of every image of a data set, drawn once: whoever asks for one of them sees the same.

    steps  in their order, each of one image by itself
    seed   of all that is random
    names  what tells the steps from others; None for those that are names themselves
    """

    def __init__(
        self,
        steps: Sequence[str | Augmentation],
        count: int,
        images: int,
        height: int,
        width: int,
        seed: int,
        names: Sequence[object] | None = None,
    ) -> None:
        self.count, self._images = count, images
        chance = Generator().manual_seed(seed)
        self._steps = [step if isinstance(step, Augmentation) else AUGMENTATIONS[step] for step in steps]
        drawn = [step.draw(count * images, height, width, chance) for step in self._steps]
        self._drawn = [(numbers.to(torch.int32), numbers.dtype) for numbers in drawn]
        self.identity: list[object] = [*(steps if names is None else names), count, seed]

    def change(self, x: Tensor, images: Tensor, numbers: Tensor) -> Tensor:
        """Turns images x (B, C, H, W), plain and normalised, into the views of them that have these numbers."""
        for step, (drawn, kind) in zip(self._steps, self._drawn, strict=True):
            x = step.change(x, drawn[numbers * self._images + images].to(kind))
        return x
