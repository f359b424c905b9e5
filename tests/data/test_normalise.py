"""What networks read of an image, against numpy on its levels; and a teacher that reads another normalisation of the same."""

import numpy as np
import pytest
import torch
from torch import nn

from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.cache import ImageSet
from kd_hpo.data.normalise import Normalisation, of_images, of_unit_pixels, reading
from kd_hpo.errors import ConfigError

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), dtype=np.uint8) // np.array([1, 2, 4], np.uint8)[:, None, None]
IMAGES = ImageSet("made", LEVELS, np.arange(6, dtype=np.int64) % 2, ("a", "b"), None, "digest")
TRAIN = np.array([0, 1, 3])
CPU = torch.device("cpu")
HALF = of_unit_pixels("given", 0.5, 0.25, 3)


def inputs(normalisation: Normalisation | None) -> np.ndarray:
    return ImageBatches(IMAGES, TRAIN, CPU, normalisation=normalisation).inputs(np.arange(6)).numpy()


def standardised() -> np.ndarray:
    values = LEVELS[TRAIN].astype(float).transpose(1, 0, 2, 3).reshape(3, -1)
    mean, std = (s[:, None, None] for s in (values.mean(1), values.std(1)))
    return (LEVELS - mean) / std


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        (None, standardised()),
        (of_unit_pixels("none", 0.0, 1.0, 3), LEVELS / 255),
        (HALF, (LEVELS / 255 - 0.5) / 0.25),
        (of_unit_pixels("given", (0.1, 0.2, 0.3), 1 / 255, 3), LEVELS - 255 * np.array([0.1, 0.2, 0.3])[:, None, None]),
    ],
    ids=["train", "none", "one number", "bytes"],
)
def test_pixels_become(normalisation: Normalisation | None, expected: np.ndarray) -> None:
    np.testing.assert_allclose(inputs(normalisation), expected, rtol=1e-5, atol=1e-5)


def test_a_network_reads_its_own_normalisation_of_what_is_given() -> None:
    train, given = of_images(IMAGES, TRAIN), ImageBatches(IMAGES, TRAIN, CPU).inputs(np.arange(6))
    network = reading(nn.Identity(), train, HALF, CPU)
    np.testing.assert_allclose(network(given).numpy(), inputs(HALF), atol=1e-5)
    assert not reading(nn.Identity(), train, of_images(IMAGES, TRAIN), CPU)._forward_pre_hooks


def test_a_number_for_each_channel() -> None:
    with pytest.raises(ConfigError, match="mean of 2 channels, and the images have 3"):
        of_unit_pixels("given", (0.5, 0.5), 0.5, 3)


def test_a_name_of_a_cache_tells_them_apart() -> None:
    assert of_images(IMAGES, TRAIN).identity == []
    assert HALF.identity not in ([], of_unit_pixels("given", 0.5, 0.5, 3).identity)
