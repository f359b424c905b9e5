"""How the levels of pixels become the numbers that a network reads, and at what size a teacher reads them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from kd_hpo.config.settings import Settings


def _of_unit_pixels(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("it should be of pixels from 0 to 1 (divide it by 255)")
    return value


_Mean = Annotated[float, AfterValidator(_of_unit_pixels)]
_Std = Annotated[PositiveFloat, AfterValidator(_of_unit_pixels)]


class MeanAndStd(Settings):
    """The normalisation (x / 255 - mean) / std of pixels x from 0 to 255, with one number, or one a channel.

    It is that of torchvision's ToTensor and Normalize.

    `{mean: 0, std: 0.00392156862745098}`, which is 1 / 255, gives the pixels as they are.
    """

    mean: _Mean | Annotated[tuple[_Mean, ...], Field(min_length=1)]
    std: _Std | Annotated[tuple[_Std, ...], Field(min_length=1)]


Normalise = Literal["train", "none"] | MeanAndStd
"""train brings each channel to mean 0 and deviation 1 over the train split; none divides by 255; or a mean and std."""
TeacherNormalise = Literal["data", "train", "none", "weights"] | MeanAndStd
"""data is what `data.normalise` says; weights, what torchvision or timm say of the network's pretrained weights."""


class InputSize(Settings):
    """The size at which a teacher reads each view that the student sees: the whole of it, resized by torchvision."""

    size: PositiveInt | tuple[PositiveInt, PositiveInt]
    """A side in pixels, or height and width."""
    interpolation: Literal["nearest", "nearest-exact", "bilinear", "bicubic"] = "bilinear"
    """What is between pixels; where images become smaller, bilinear and bicubic smooth them first."""


TeacherInput = Literal["data", "weights"] | InputSize
"""data: the student's size; weights: that of the network's pretrained weights, as torchvision or timm have it."""
