"""How the levels of pixels become the numbers that a network reads."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat

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
