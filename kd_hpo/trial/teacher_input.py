"""How a teacher reads images: its normalisation and its size, which are its own, whatever those of the student are."""

import numpy as np
from torch import nn

from kd_hpo.config.normalise import MeanAndStd
from kd_hpo.config.trial import Teacher
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.normalise import Normalisation, OwnInput, of_unit_pixels
from kd_hpo.errors import ConfigError
from kd_hpo.nets.libraries import input_of_weights, statistics_of_weights


def reads_as_its_weights(teacher: Teacher) -> bool:
    """Whether a teacher whose settings say nothing of its normalisation reads that of its library's weights."""
    asked = teacher.input == "weights" or (bool(teacher.network.pretrained) and teacher.input != "data")
    return asked and teacher.normalise == "data"


def size_of_input(teacher: Teacher, batches: ImageBatches) -> tuple[tuple[int, int], str] | None:
    """Gives the size, and the interpolation, that `teacher.input` says; None where that is the images' own.

    Raises ConfigError where it is that of weights that no library knows.
    """
    wanted = teacher.input
    if wanted is None:
        small = teacher.network.arguments.get("stem") == "small"
        wanted = "weights" if teacher.network.pretrained and not small else "data"
    if wanted == "data":
        return None
    if wanted == "weights":
        found = input_of_weights(teacher.network.name, teacher.network.pretrained)
        if found is None:
            raise ConfigError(
                f"teacher.input is weights, and {teacher.network.name!r} is no network of torchvision or timm that has a "
                "configuration of its weights; give it as {size: ..., interpolation: ...}, or as data"
            )
    else:
        side = wanted.size
        found = side if isinstance(side, tuple) else (side, side), wanted.interpolation
    return None if found[0] == batches.input_shape[1:] else found


def with_size(normalisation: Normalisation, own: tuple[tuple[int, int], str] | None) -> Normalisation:
    """Gives the normalisation of images that are brought to that size first, where there is one."""
    if own is None:
        return normalisation
    return OwnInput(normalisation.name, normalisation.mean, normalisation.std, *own)


def teacher_normalisation(teacher: Teacher, network: nn.Module, batches: ImageBatches) -> Normalisation:
    """Gives what `teacher.normalise` says. Raises ConfigError where that does not fit the images or the network."""
    wanted, channels = teacher.normalise, batches.input_shape[0]
    if reads_as_its_weights(teacher):
        wanted = "weights"
    if wanted == "data":
        return batches.normalisation
    if wanted == "train":
        return batches.train_normalisation
    if isinstance(wanted, MeanAndStd):
        return of_unit_pixels("given", wanted.mean, wanted.std, channels)
    if wanted == "none":
        return of_unit_pixels("none", 0.0, 1.0, channels)
    found = statistics_of_weights(teacher.network.name, network, teacher.network.pretrained)
    if found is None:
        raise ConfigError(
            f"teacher.normalise is weights, and {teacher.network.name!r} is no network of torchvision or timm that has a "
            "configuration of its weights; give it as {mean: ..., std: ...} of pixels from 0 to 1, as none, or as train"
        )
    mean, std = found
    if channels == 1:  # as its first convolution, which sums its weights over the channels
        mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
    return of_unit_pixels("weights", mean, std, channels)
