"""Turns an image file, a PIL image, a tensor or an array into a PIL image of mode L (grey) or RGB."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from kd_hpo.errors import DataError

MAX_PIXELS = 2**26
"""Of an image file, before it is brought to a size: 67 million; a file of a few bytes may claim any number."""


class Unreadable(Exception):
    """Why one image cannot be read; whoever reads many counts and names such images."""


def require_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise DataError(f"size is {size}; accepted are a number of pixels from 1 up, or none to keep the images as they are.")


def fitted(image: Image.Image, size: int | None) -> Image.Image:
    """The shorter side resized to `size`, then the centre square; the image as it is for None."""
    return image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def read_file(file: Path, size: int | None) -> Image.Image:
    """The first frame of an image file, upright (EXIF), fitted to `size`."""
    with Image.open(file) as opened:
        kind = opened.format
        if size is not None:
            opened.draft(None, (2 * size, 2 * size))  # lets a JPEG decode at a fraction of its size
        if opened.width * opened.height > MAX_PIXELS:
            raise Unreadable(f"{opened.width} x {opened.height} pixels, more than {MAX_PIXELS} in all")
        return fitted(_eight_bits(ImageOps.exif_transpose(opened), kind), size)


def as_image(value: Any, name: str) -> Image.Image:
    """What a data set gives as an image, called `name` in a message.

    value  a PIL image; or a tensor or array of (H, W), (C, H, W) or (H, W, C), with C 1 or 3, of uint8 or of floats in [0, 1]
    Raises DataError for anything else.
    """
    if isinstance(value, Image.Image):
        return _eight_bits(value, value.format)
    array, channels_first = _as_array(value, name)
    shape = array.shape
    if array.ndim == 3:
        axis = next((axis for axis in ((0, 2) if channels_first else (2, 0)) if array.shape[axis] in (1, 3)), None)
        array = array if axis is None else np.moveaxis(array, axis, 2)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise DataError(
            f"{name} is an image of shape {shape}; accepted are (H, W), (C, H, W) and (H, W, C), where C is 1 (grey) or 3 (RGB)."
        )
    levels = _as_levels(array, name)
    return Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else np.ascontiguousarray(levels))


def _as_array(value: Any, name: str) -> tuple[npt.NDArray[Any], bool]:
    """The value as an array, and whether it is a tensor, whose channels come first by custom."""
    from torch import Tensor

    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy(), True
    if isinstance(value, np.ndarray):
        return value, False
    raise DataError(f"{name} has a {type(value).__name__} for an image; accepted are PIL images, tensors and arrays.")


def _as_levels(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """uint8 as it is; floats in [0, 1] brought to the nearest of 0..255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise DataError(f"{name} is an image of {array.dtype}; accepted are uint8, and floats in [0, 1].")
    levels = np.rint(array * 255.0)
    if not ((levels >= 0) & (levels <= 255)).all():  # says no to NaN too
        raise DataError(
            f"{name} is an image of floats from {array.min():.4g} to {array.max():.4g}; accepted are floats in [0, 1] and uint8. "
            "Give images before normalisation: kd_hpo normalises them itself."
        )
    return levels.astype(np.uint8)


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unreadable(f"{kind or 'image'} of mode {image.mode}, whose range is unknown")
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
