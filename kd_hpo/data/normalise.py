"""How the levels of pixels become the numbers that a network reads: (x - mean) / std, channel by channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_hpo.data.cache import ImageSet
from kd_hpo.errors import ConfigError

LEVELS = 255.0


@dataclass(frozen=True)
class Normalisation:
    """The map (x - mean) / std of pixels x in levels, 0 to 255; `name` is what settings call it."""

    name: str
    mean: tuple[float, ...]
    """One a channel, as `std`."""
    std: tuple[float, ...]

    @property
    def identity(self) -> list[object]:
        """What stands for the normalisation in names of what is computed from images.

        That is nothing of the train split's, which those have in their names already.
        """
        return [] if self.name == "train" else [list(self.mean), list(self.std)]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The mean and std as tensors, (C, 1, 1) each, in torch's default dtype."""
        mean, std = (torch.tensor(s, dtype=torch.get_default_dtype())[:, None, None] for s in (self.mean, self.std))
        return mean.to(device), std.to(device)

    def __str__(self) -> str:
        if self.name == "none":
            return "pixels / 255 (none)"
        mean, std = (", ".join(f"{value / LEVELS:.4g}" for value in values) for values in (self.mean, self.std))
        return f"(pixels / 255 - mean) / std with mean {mean} and std {std} ({self.name})"


@dataclass(frozen=True)
class OwnInput(Normalisation):
    """A normalisation of images that are resized first."""

    size: tuple[int, int]
    """Height and width."""
    interpolation: str
    """One of torchvision's."""

    def __str__(self) -> str:
        return f"{super().__str__()}, resized to {self.size[0]}x{self.size[1]} ({self.interpolation})"


def of_unit_pixels(name: str, mean: float | Sequence[float], std: float | Sequence[float], channels: int) -> Normalisation:
    """Makes a normalisation from mean and std of pixels in [0, 1], one number for all channels or one each.

    Raises ConfigError for another number of them.
    """
    given = [tuple(v) if isinstance(v, Sequence) else (v,) * channels for v in (mean, std)]
    for word, values in zip(("mean", "std"), given, strict=True):
        if len(values) != channels:
            raise ConfigError(
                f"normalise has a {word} of {len(values)} channels, and the images have {channels}; give one number, or as many"
            )
    return Normalisation(name, *(tuple(float(v) * LEVELS for v in values) for values in given))


def of_images(images: ImageSet, indices: NDArray[np.int64]) -> Normalisation:
    """Makes the normalisation that brings each channel to mean 0 and deviation 1 over these images."""
    total, squares, count = 0.0, 0.0, 0
    for start in range(0, len(indices), 4096):
        values = images.images[indices[start : start + 4096]].astype(np.float64)
        total, squares = total + values.sum((0, 2, 3)), squares + np.square(values).sum((0, 2, 3))
        count += values.size // values.shape[1]
    mean = np.asarray(total) / count
    std = np.sqrt(np.maximum(np.asarray(squares) / count - mean**2, 1e-6))
    return Normalisation("train", tuple(mean.tolist()), tuple(std.tolist()))


@dataclass(frozen=True, eq=False)
class Renormalise:
    """A hook before a network that brings what was normalised one way to another, x * scale + shift.

    It belongs to the network's module, so that layers and weights keep their names, and the network's digest has it.
    """

    scale: Tensor
    """(C, 1, 1), as `shift`."""
    shift: Tensor

    @classmethod
    def between(cls, given: Normalisation, wanted: Normalisation, device: torch.device) -> "Renormalise":
        (mean, std), (wanted_mean, wanted_std) = (
            [np.asarray(values)[:, None, None] for values in (each.mean, each.std)] for each in (given, wanted)
        )
        made = (std / wanted_std, (mean - wanted_mean) / wanted_std)
        return cls(*(torch.tensor(each, dtype=torch.get_default_dtype(), device=device) for each in made))

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = arguments
        return (x * self.scale.to(x) + self.shift.to(x), *rest)


@dataclass(frozen=True)
class Resize:
    """A hook before a network that brings images to the size that it reads."""

    size: tuple[int, int]
    interpolation: str

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        x, *rest = arguments
        return (functional.resize(x, list(self.size), InterpolationMode(self.interpolation)), *rest)


def reading(network: nn.Module, given: Normalisation, wanted: Normalisation, device: torch.device) -> nn.Module:
    """The network, which from now on reads images that were normalised as `given` as it would those normalised as `wanted`.

    Where that is an OwnInput, they are resized too. Raises ConfigError for a TorchScript module, which takes no hooks.
    """
    if isinstance(wanted, OwnInput):
        require_hooks(network, "teacher.input")
        network.register_forward_pre_hook(Resize(wanted.size, wanted.interpolation))
    if (given.mean, given.std) != (wanted.mean, wanted.std):
        require_hooks(network, "teacher.normalise")
        network.register_forward_pre_hook(Renormalise.between(given, wanted, device))
    return network


def require_hooks(network: nn.Module, setting: str) -> None:
    """Checks that a network takes hooks. Raises ConfigError for a TorchScript module, which takes none."""
    if isinstance(network, torch.jit.ScriptModule):
        raise ConfigError(
            f"{setting} cannot be put around a TorchScript module, which takes no hooks; give a `package.module:callable` that "
            "returns a module of yours with the TorchScript module inside"
        )
