"""Turns an image file, a PIL image, a tensor or an array into a PIL image of mode L (grey) or RGB of 8 bits."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from kd_hpo.errors import DataError

MAX_PIXELS = 2**26
"""Of an image file, before it is brought to a size: 67 million; a file of a few bytes may claim any number."""


class Unreadable(Exception):
    """An error that says why one image cannot be read; whoever reads many counts and names such images."""


def require_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise DataError(f"size is {size}; accepted are a number of pixels from 1 up, or none to keep the images as they are.")


def fitted(image: Image.Image, size: int | None) -> Image.Image:
    """Resizes the shorter side to `size`, then crops the centre square; gives the image as it is for None."""
    return image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class Deep:
    """A colour image of 16 bits, of which Pillow would give the high byte alone."""

    levels: npt.NDArray[np.uint16]
    """(H, W, C): RGB, or RGB and opacity."""

    @property
    def peak(self) -> int:
        """The highest level of what is drawn."""
        return int(self.levels[..., :3].max())

    def at_bits(self, bits: int) -> Image.Image:
        """Gives the image of 8 bits, where the levels fill so many; opacity fills 16."""
        drawn = np.minimum(self.levels[..., :3] >> (bits - 8), 255)
        return Image.fromarray(np.concatenate([drawn, self.levels[..., 3:] >> 8], 2).astype(np.uint8))


Stored = Image.Image | Deep
"""An image as it is stored."""


@dataclass
class Depiction:
    """The way that what 8 bits do not hold is brought to them, in all images of a data set alike; None until it is known."""

    bits: int | None = None
    """How many bits the grey levels of images of 16 bits fill."""
    ground: int | None = None
    """The grey level under what is transparent."""

    def decide(self, looks: Iterable["Look"]) -> tuple[str, ...]:
        """Decides by the looks of all images of the data set what is not known; gives words about what was decided."""
        known = replace(self)
        peak, ink, deep_ink, cover, words = 0, 0.0, 0.0, 0.0, list[str]()
        for look in looks:
            peak, cover = max(peak, look.peak or 0), cover + look.cover
            ink, deep_ink = (ink + look.ink, deep_ink) if look.peak is None else (ink, deep_ink + look.ink)
            self.bits = 16 if look.peak is not None else self.bits
            self.ground = 0 if look.cover or look.clear else self.ground
        if known.bits is not None:
            self.bits = known.bits
        elif self.bits is not None:
            self.bits = max(8, peak.bit_length() + peak.bit_length() % 2)
            words.append(f"images of 16 bits reach level {peak} and are read as those of {self.bits} bits")
        if known.ground is not None:
            self.ground = known.ground
        elif self.ground is not None:
            ink += deep_ink / 2 ** ((self.bits or 8) - 8)
            self.ground = 255 if ink < 127.5 * cover else 0
            drawn, ground = ("dark", "white") if self.ground else ("light", "black")
            words.append(f"what is transparent in images is read as {ground}, since what is drawn is {drawn}")
        return tuple(words)


class Look(NamedTuple):
    """The look of one image: what it says about how those of its data set are brought to 8 bits."""

    peak: int | None
    """Its highest level, of 16 bits."""
    ink: float
    """The sum of its levels, each times its opacity in [0, 1], where it is transparent anywhere."""
    cover: float
    """The sum of those opacities."""
    clear: bool
    """Whether it is transparent anywhere."""


class Undecided(Exception):
    """An error that says that how an image is read depends on the others of its data set."""


def look_at(image: Stored) -> Look:
    if isinstance(image, Deep):
        split = _split(image.at_bits(16))
        if split is None:
            return Look(image.peak, 0.0, 0.0, False)
        opacity = np.asarray(split[1]) / 255
        levels = image.levels[..., :3].mean(2)  # whatever weights grey gives to colours, it is between dark and light
        return Look(image.peak, float((levels * opacity).sum()), float(opacity.sum()), True)
    if _is_deep(image):
        return Look(int(np.asarray(image).max()), 0.0, 0.0, False)
    if (split := _split(image)) is None:
        return Look(None, 0.0, 0.0, False)
    opacity = np.asarray(split[1]) / 255
    return Look(None, float((np.asarray(split[0].convert("L")) * opacity).sum()), float(opacity.sum()), True)


def depicted(image: Stored, how: Depiction) -> Image.Image:
    """Gives the image in mode L or RGB. Raises Undecided where `how` does not say how it is read."""
    if isinstance(image, Deep):
        if how.bits is None:
            raise Undecided
        image = image.at_bits(how.bits)
    if _is_deep(image):
        if how.bits is None:
            raise Undecided
        return Image.fromarray(np.minimum(np.asarray(image) >> (how.bits - 8), 255).astype(np.uint8))
    if (split := _split(image)) is not None:
        if how.ground is None:
            raise Undecided
        drawn, opacity = split
        return Image.composite(drawn, Image.new(drawn.mode, drawn.size, (how.ground,) * len(drawn.getbands())), opacity)
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I")


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image] | None:
    """What is drawn (L or RGB) and its opacity (L); None where nothing is transparent."""
    if not image.has_transparency_data:
        return None
    grey = image.mode in ("1", "L", "LA", "La")
    drawn = image.convert("LA" if grey else "RGBA")
    opacity = drawn.getchannel("A")
    return None if opacity.getextrema()[0] == 255 else (drawn.convert("L" if grey else "RGB"), opacity)


def open_file(file: Path, size: int | None = None) -> Stored:
    """Reads the first frame of an image file, upright (EXIF), as it is stored; a JPEG no larger than is needed for `size`."""
    with Image.open(file) as opened:
        kind = opened.format
        if size is not None:
            opened.draft(None, (2 * size, 2 * size))  # lets a JPEG decode at a fraction of its size
        if opened.width * opened.height > MAX_PIXELS:
            raise Unreadable(f"{opened.width} x {opened.height} pixels, more than {MAX_PIXELS} in all")
        if lost := halved(opened):
            if kind == "PNG":
                return _deep_png(file)
            raise Unreadable(f"{lost}; store it as PNG")
        return _of_known_range(ImageOps.exif_transpose(opened), kind)


def halved(image: Image.Image) -> str | None:
    """Names an image of which Pillow gives the high byte of 16 bits alone; None for others, and where nothing tells it.

    A TIFF says its bits in a tag. In the file, those of a PNG follow signature, chunk head, width and height; the highest level
    of a PPM follows its magic number, width and height, between which comments may stand.
    """
    if image.mode not in ("RGB", "RGBA", "RGBX", "CMYK", "LA") or not isinstance(image, ImageFile.ImageFile):
        return None
    deep = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        deep = max(image.tag_v2.get(_BITS_OF_TIFF, (8,))) > 8
    elif image.format in ("PNG", "PPM") and image.filename and (file := Path(os.fsdecode(image.filename))).is_file():
        with file.open("rb") as opened:
            head = opened.read(4096)
        ppm = _HEAD_OF_PPM.match(head)
        deep = head[24:25] == b"\x10" if image.format == "PNG" else ppm is not None and int(ppm[1]) > 255
    return f"{image.format} of 16 bits a colour, of which Pillow gives 8" if deep else None


_BITS_OF_TIFF = 258
_BETWEEN = rb"(?:\s|#[^\n]*\n)+"
_HEAD_OF_PPM = re.compile(rb"P[36]" + (_BETWEEN + rb"\d+") * 2 + _BETWEEN + rb"(\d+)")


def _deep_png(file: Path) -> Deep:
    import torch
    from torchvision.io import decode_image

    content = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    levels = decode_image(content, apply_exif_orientation=True).permute(1, 2, 0).numpy()
    if levels.shape[2] == 2:  # grey and opacity, which Pillow too gives as colours
        levels = levels[..., [0, 0, 0, 1]]
    return Deep(np.ascontiguousarray(levels))


def raw_image(value: Any, name: str) -> Image.Image:
    """Makes, for `depicted`, an image of what a data set gives as one, called `name` in a message.

    value  a PIL image; or a tensor or array of (H, W), (C, H, W) or (H, W, C), with C 1 or 3, of uint8 or of floats in [0, 1]
    Raises DataError for anything else.
    """
    if isinstance(value, Image.Image):
        if lost := halved(value):
            raise DataError(f"{name} is a {lost}; give it as an array of uint8, or as floats in [0, 1].")
        return _of_known_range(value, value.format)
    array, channels_first = _as_array(value, name)
    shape = array.shape
    if array.ndim == 3:
        if not channels_first and {shape[0], shape[2]} == {1, 3}:
            raise DataError(
                f"{name} is an array of shape {shape}, whose channels may come first or last. Give a tensor, whose channels come "
                "first, or a PIL image."
            )
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


def _of_known_range(image: Image.Image, kind: str | None) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and kind not in ("PNG", "PPM")):
        raise Unreadable(f"{kind or 'image'} of mode {image.mode}, whose range is unknown")
    image.load()
    return image
