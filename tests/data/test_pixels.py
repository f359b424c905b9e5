"""What a data set may give as an image, and what it becomes."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kd_hpo.data.pixels import Depiction, Undecided, Unreadable, depicted, look_at, open_file, raw_image
from kd_hpo.errors import DataError


def as_image(value: Any, name: str) -> Image.Image:
    return depicted(raw_image(value, name), Depiction())


RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)  # H = 5, W = 7
GREY = RGB[..., 0]
PLANES = RGB.transpose(2, 0, 1)
FULL = np.random.default_rng(1).permutation(256).astype(np.uint8).repeat(3).reshape(16, 16, 3)
LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (RGB, RGB),
        (PLANES, RGB),
        (GREY, GREY),
        (GREY[None], GREY),
        (GREY[..., None], GREY),
        (torch.from_numpy(RGB), RGB),
        (torch.from_numpy(PLANES.copy()), RGB),
        (RGB[:3], RGB[:3]),  # 3 x 7 x 3: in an array the channels come last,
        (torch.from_numpy(RGB[:, :3].transpose(2, 0, 1).copy()), RGB[:, :3]),  # in a tensor first
        (torch.from_numpy(GREY.copy()), GREY),
        (torch.from_numpy(GREY.copy())[None], GREY),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])), RGB),  # RGBA that is opaque
        (Image.fromarray(GREY > 127), np.where(GREY > 127, 255, 0)),
        (torch.from_numpy(LEVELS).float() / 255, LEVELS),  # torchvision's ToTensor: every level comes back
        (torch.from_numpy(LEVELS).double() / 255, LEVELS),
        ((torch.from_numpy(LEVELS) / 255).half(), LEVELS),
        (LEVELS.astype(np.float32) / 255, LEVELS),
        (torch.tensor([[0.0, 1.0, 0.4999 / 255, 0.5001 / 255]]), [[0, 255, 0, 1]]),
        (torch.tensor([[0.0, 0.25, 0.5, 1.0]]).bfloat16(), [[0, 64, 128, 255]]),
        (torch.full((1, 2, 2), 0.2, requires_grad=True), np.full((2, 2), 51)),
    ],
)
def test_accepted(value: Any, expected: Any) -> None:
    image = as_image(value, "item 0")
    np.testing.assert_array_equal(np.asarray(image), expected)
    assert image.mode == ("RGB" if np.ndim(expected) == 3 else "L")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(2, 5, 7), r"shape \(2, 5, 7\); accepted are \(H, W\), \(C, H, W\) .* C is 1 \(grey\) or 3"),
        (np.zeros((5, 7, 4), np.uint8), r"shape \(5, 7, 4\)"),
        (np.zeros((1, 3, 5, 7), np.uint8), r"shape \(1, 3, 5, 7\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (torch.tensor([[-1.0, 1.0]]), r"floats from -1 to 1; accepted are floats in \[0, 1\].*before normalisation"),
        (np.array([[0.0, 255.0]]), r"floats from 0 to 255"),
        (np.array([[0.5, np.nan]]), "floats from nan"),
        (np.zeros((5, 7), np.int64), r"of int64; accepted are uint8, and floats in \[0, 1\]"),
        (np.zeros((5, 7), bool), "of bool"),
        (torch.zeros(5, 7, dtype=torch.int32), "of int32"),
        (np.zeros((3, 128, 1), np.uint8), r"shape \(3, 128, 1\), whose channels may come first or last"),
        ("a/path.png", "has a str for an image; accepted are PIL images, tensors and arrays"),
        (None, "has a NoneType for an image"),
    ],
)
def test_refused(value: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"^train item 3 .*{said}") as caught:
        as_image(value, "train item 3")
    assert "\n" not in str(caught.value)


def test_range_unknown() -> None:
    with pytest.raises(Unreadable, match="image of mode F, whose range is unknown"):
        as_image(Image.fromarray(np.zeros((5, 7), np.float32)), "item 0")


def read_together(*images: Image.Image) -> tuple[list[Any], tuple[str, ...]]:
    how = Depiction()
    words = how.decide(look_at(image) for image in images)
    return [np.asarray(depicted(image, how)).tolist() for image in images], words


@pytest.mark.parametrize(
    ("levels", "bits", "expected"),
    [
        ([0, 127, 255], 8, [0, 127, 255]),
        ([0, 16, 4095], 12, [0, 1, 255]),
        ([0, 1023], 10, [0, 255]),
        ([0, 257, 65535], 16, [0, 1, 255]),
        ([0, 0], 8, [0, 0]),
    ],
)
def test_16_bits_are_read_by_the_range_of_all_images(levels: list[int], bits: int, expected: list[int]) -> None:
    deep, eight = Image.fromarray(np.array([levels], np.uint16)), Image.fromarray(np.array([[0, 200]], np.uint8))
    with pytest.raises(Undecided):
        depicted(deep, Depiction())
    (read, other), words = read_together(deep, eight)
    assert (read, other) == ([expected], [[0, 200]])
    assert words == (f"images of 16 bits reach level {max(levels)} and are read as those of {bits} bits",)


@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (255, 0)], ids=["dark on white", "light on black"])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L"])
def test_what_is_drawn_on_transparency_is_seen(mode: str, ink: int, ground: int) -> None:
    drawn = Image.fromarray(np.array([[[ink, 255], [255 - ink, 0]]], np.uint8))  # what is transparent is of the other colour
    if mode in ("P", "L"):
        image = Image.fromarray(np.array([[ink, 7]], np.uint8))
        image = image.convert("P") if mode == "P" else image
        image.info["transparency"] = 7
    else:
        image = drawn.convert(mode)
    with pytest.raises(Undecided):
        depicted(image, Depiction())
    (read,), (words,) = read_together(image)
    assert np.array(read).reshape(2, -1)[:, 0].tolist() == [ink, ground]
    assert f"is read as {'white' if ground else 'black'}" in words


def test_half_transparent_is_half_seen() -> None:
    (read, opaque), _ = read_together(
        Image.fromarray(np.array([[[0, 51], [0, 255]]], np.uint8)), Image.fromarray(np.array([[[9, 255]]], np.uint8))
    )
    assert (read, opaque) == ([[204, 0]], [[9]])


def test_images_without_such_things_need_no_decision() -> None:
    assert read_together(Image.fromarray(GREY), Image.fromarray(RGB))[1] == ()


pytestmark = pytest.mark.filterwarnings("ignore:The image decoding")  # of torchvision, whose successor is another package


def png_of_16_bits(levels: np.ndarray) -> bytes:
    """(H, W, C) as colours (C = 3), with opacity (4), or grey with opacity (2), by the format's own description."""
    height, width, channels = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("scale", "bits"), [(1, 8), (16, 12), (257, 16)])
def test_colours_of_16_bits_are_read_by_the_range_of_all_images(tmp_path: Path, scale: int, bits: int) -> None:
    """RGB, in which every level of 8 bits is there, scaled to fill 8, 12 and 16 bits: always the same image."""
    (tmp_path / "a.png").write_bytes(png_of_16_bits(FULL.astype(np.uint16) * scale))
    (tmp_path / "b.png").write_bytes(png_of_16_bits(np.zeros((2, 2, 3), np.uint16)))
    stored = [open_file(tmp_path / name) for name in ("a.png", "b.png")]
    with pytest.raises(Undecided):
        depicted(stored[0], Depiction())
    how = Depiction()
    (words,) = how.decide(map(look_at, stored))
    assert f"reach level {255 * scale} and are read as those of {bits} bits" in words
    read = [depicted(each, how) for each in stored]
    np.testing.assert_array_equal(np.asarray(read[0]), FULL)
    assert (read[0].mode, np.asarray(read[1]).max()) == ("RGB", 0)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(("ink", "ground"), [(0, 255), (200, 0)], ids=["dark on white", "light on black"])
def test_what_is_drawn_in_16_bits_on_transparency_is_seen(tmp_path: Path, channels: int, ink: int, ground: int) -> None:
    levels = np.zeros((1, 2, channels), np.uint16)
    levels[0, 0], levels[0, 1, -1] = [*[ink * 257] * (channels - 1), 65535], 0
    levels[0, 1, :-1] = 65535 - ink * 257
    (tmp_path / "a.png").write_bytes(png_of_16_bits(levels))
    how, stored = Depiction(), open_file(tmp_path / "a.png")
    how.decide([look_at(stored)])
    assert np.asarray(depicted(stored, how))[0].tolist() == [[ink] * 3, [ground] * 3]


def tiff_of_16_bits(levels: np.ndarray) -> bytes:
    """(H, W, 3), uncompressed in one strip, by the format's own description."""
    height, width, channels = levels.shape
    content, bits = levels.astype("<u2").tobytes(), struct.pack("<3H", 16, 16, 16)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 14), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(content))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 14 + len(content)) + bits + content + directory


def ppm_of_16_bits(levels: np.ndarray) -> bytes:
    height, width, _ = levels.shape
    return b"P6 # 1 2 3\n%d %d\n65535\n" % (width, height) + levels.astype(">u2").tobytes()


@pytest.mark.parametrize("scale", [1, 257])
@pytest.mark.parametrize("stored", [tiff_of_16_bits, ppm_of_16_bits, png_of_16_bits])
def test_colours_of_which_pillow_gives_the_high_byte_are_named(tmp_path: Path, stored: Any, scale: int) -> None:
    """But of those, files of PNG are read whole."""
    file = tmp_path / f"a.{stored.__name__[:3]}"
    file.write_bytes(stored(FULL.astype(np.uint16) * scale))
    with Image.open(file) as opened:
        assert np.asarray(opened).max() in (0, 1, 255)  # Pillow rounds those of a PPM
        with pytest.raises(DataError, match=r"^item 0 is a (TIFF|PPM|PNG) of 16 bits a colour, .* an array of uint8"):
            as_image(opened, "item 0")
    if file.suffix != ".png":
        with pytest.raises(Unreadable, match="of 16 bits a colour, of which Pillow gives 8; store it as PNG"):
            open_file(file)


def test_colours_of_8_bits_are_read(tmp_path: Path) -> None:
    for suffix in ("tif", "ppm", "png"):
        Image.fromarray(FULL).save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(np.asarray(depicted(open_file(tmp_path / f"a.{suffix}"), Depiction())), FULL)
