"""The random views that training sees of its images."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from kd_hpo.config.settings import Key, Plain, Settings

Own = Literal["flip", "crop", "cutout", "mixup"]
"""One of kd_hpo's own: mirrored with probability one half, moved by up to an eighth of the side, a square of half the side set to
the mean, or mixed with another image of the batch."""
_MIXING = ("mixup", "MixUp", "CutMix")


class Transform(Settings):
    """A transform of torchvision.transforms.v2 by its name, such as RandAugment, or one of your own.

    It sees each image by itself, as bytes (C, H, W), RandomErasing as the numbers that the network reads; MixUp and CutMix see
    the batch, last of all. Chance comes from the trial's seed: of torch, numpy's global state and Python's `random`.
    """

    name: Key
    """Or `package.module:callable`, which is called with the arguments and returns what changes an image."""
    arguments: dict[Key, Plain] = Field(default={})
    """What it is called with. A `size` that is not given is the images'; the number of classes is the data's; `transforms` (of
    RandomApply, RandomChoice, RandomOrder and Compose) is a list such as this one: `[{name: MixUp}, {name: CutMix}]`."""

    def __str__(self) -> str:
        return self.name


def mixes(step: Any) -> bool:
    """Whether a step mixes the images of a batch, and their labels."""
    if isinstance(step, str):
        return step in _MIXING
    name, arguments = (step.name, step.arguments) if isinstance(step, Transform) else (step.get("name"), step.get("arguments"))
    inside = arguments.get("transforms") if isinstance(arguments, Mapping) else None
    return name in _MIXING or (
        isinstance(inside, list) and any(mixes(each) for each in inside if isinstance(each, str | Mapping))
    )


def _one_mixing(steps: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(mixing := [str(step) for step in steps if mixes(step)]) > 1:
        raise ValueError(
            f"it should mix the images of a batch once, and {' and '.join(mixing)} both do; to draw one of them for each batch, "
            "write {name: RandomChoice, arguments: {transforms: [{name: MixUp}, {name: CutMix}]}}"
        )
    return steps


Augment = Annotated[tuple[Own | Transform, ...], AfterValidator(_one_mixing)]
"""Random views of training images, one step after the other: own ones by name, others as mappings with their name."""


def in_words(steps: Augment) -> str:
    """Gives the names of the steps, as people read them."""
    return ", ".join(map(str, steps))
