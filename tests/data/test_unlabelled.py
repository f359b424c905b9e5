"""A folder of images without labels: read as the data's are, and what is said of one that cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_hpo.data import image_folder
from kd_hpo.data.cache import ImageSet
from kd_hpo.data.image_folder import load_image_folder
from kd_hpo.data.pixels import Depiction
from kd_hpo.data.unlabelled import load_unlabelled_folder
from kd_hpo.errors import DataError, Note
from tests.data.test_image_folder import RGB, write

GREY = RGB[..., 0]
Load = Callable[..., ImageSet]


def like(pixels: np.ndarray, how: Depiction | None = None) -> ImageSet:
    """Data of these images (N, H, W) or (N, H, W, 3)."""
    images = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return ImageSet("data", images, np.zeros(len(images), np.int64), ("a", "b"), None, "d", (), how or Depiction())


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def read(of: ImageSet = like(RGB), **options: Any) -> ImageSet:  # noqa: B008
        options = {"size": None, "most": 100, "seed": 0} | options
        return load_unlabelled_folder(tmp_path / "cache", tmp_path / "images", of, **options)

    return read


def test_images_are_found_however_nested_in_the_order_of_their_names(tmp_path: Path, load: Load) -> None:
    for number, name in enumerate(("c.png", "a/b/1.png", "a/0.png", "z/y/x/w.png")):
        write(tmp_path / "images" / name, RGB[number])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    told: list[str] = []
    read = load(progress=told.append)
    np.testing.assert_array_equal(read.images, RGB[[2, 1, 0, 3]].transpose(0, 3, 1, 2))
    assert len(read.labels) == 4
    assert any(isinstance(word, Note) and "1 files are left out" in word for word in told)


def test_no_more_than_the_cap_are_opened_and_it_is_told(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        write(tmp_path / "images" / f"{number:02}.png", RGB[number])
    opened, told, real = set[str](), list[str](), image_folder.open_file
    monkeypatch.setattr(image_folder, "open_file", lambda file, size: (opened.add(file.name), real(file, size))[1])
    some = load(most=5, progress=told.append)
    assert len(opened) == len(some.labels) == 5
    assert "of 20 unlabelled images 5 are drawn (data.unlabelled_images)" in told
    assert load(most=5).digest == some.digest != load(most=5, seed=1).digest


def test_grey_images_become_those_of_coloured_data_and_are_resized_as_it_is(tmp_path: Path, load: Load) -> None:
    write(tmp_path / "images" / "a.png", np.kron(GREY[0], np.ones((2, 2), np.uint8)))
    write(tmp_path / "images" / "b.png", RGB[1])
    square = RGB[:, :4, :4]
    read = load(like(square), size=4)
    assert read.images.shape == (2, 3, 4, 4) and (read.images[0, 0] == read.images[0, 2]).all()


def test_levels_of_16_bits_are_read_by_the_range_of_the_data(tmp_path: Path) -> None:
    """The data fills 12 bits; the folder holds its darkest images alone, and one that is brighter than all of the data."""
    levels = (np.arange(35).reshape(5, 7) * 8).astype(np.uint16)
    for file, image in (("data/a/0.png", levels), ("data/b/0.png", levels + 3800), ("images/0.png", levels)):
        write(tmp_path / file, image)
    write(tmp_path / "images" / "1.png", np.full((5, 7), 60_000, np.uint16))
    data = load_image_folder(tmp_path / "cache", tmp_path / "data")
    again = load_image_folder(tmp_path / "cache", tmp_path / "data")  # from the cache
    assert data.how == again.how == Depiction(bits=12)
    read = load_unlabelled_folder(tmp_path / "cache", tmp_path / "images", again, size=None, most=9, seed=0)
    np.testing.assert_array_equal(read.images[0], data.images[0])
    assert (read.images[1] == 255).all()


def test_what_is_transparent_has_the_ground_of_the_data(tmp_path: Path, load: Load) -> None:
    image = np.dstack([RGB[0], np.zeros((5, 7), np.uint8)])
    write(tmp_path / "images" / "a.png", Image.fromarray(image, "RGBA"))
    write(tmp_path / "images" / "b.png", RGB[1])
    for ground in (0, 255):
        assert (load(like(RGB, Depiction(ground=ground))).images[0] == ground).all()


@pytest.mark.parametrize(
    ("files", "of", "words"),
    [
        (None, RGB, "does not exist"),
        ({}, RGB, "holds no image"),
        ({"a.txt": None}, RGB, "holds no image"),
        ({"a.png": RGB[0], "b.png": RGB[1][:4]}, RGB, "b.png is 7 x 4, and the data's images are 7 x 5"),
        ({"a.png": RGB[0][:, :6]}, RGB, "a.png is 6 x 5"),
        ({"a.png": GREY[0], "b.png": RGB[1]}, GREY, "b.png has colours"),
        ({"a.png": None, "b.png": RGB[1]}, RGB, "1 of 2 unlabelled images under .* cannot be read: a.png"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_a_line(
    tmp_path: Path, load: Load, files: dict[str, np.ndarray | None] | None, of: np.ndarray, words: str
) -> None:
    if files is not None:
        (tmp_path / "images").mkdir()
        for name, image in files.items():
            (tmp_path / "images" / name).write_text("") if image is None else write(tmp_path / "images" / name, image)
    with pytest.raises(DataError, match=words) as error:
        load(like(of))
    assert "\n" not in str(error.value)
