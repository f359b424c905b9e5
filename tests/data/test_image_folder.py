"""Folders of images that the tests write themselves: contents, the cache, and what is said of a folder that cannot be used."""

import os
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_hpo.data import image_folder
from kd_hpo.data import images as items
from kd_hpo.data.datasets import ImageSet, load_image_folder
from kd_hpo.errors import DataError, Note

RGB = np.random.default_rng(0).integers(0, 256, (40, 5, 7, 3), dtype=np.uint8)  # H = 5, W = 7


def write(file: Path, pixels: np.ndarray | Image.Image, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """cat/0.png 1.png, dog/0.png 1.png: RGB[0..3], in that order."""
    for index in range(4):
        write(tmp_path / "pets" / ("cat", "dog")[index // 2] / f"{index % 2}.png", RGB[index])
    return tmp_path / "pets"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., ImageSet]:
    return lambda *args, **kwargs: load_image_folder(tmp_path / "cache", *args, **kwargs)


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, opening an image fails."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("an image was opened")

    return lambda: monkeypatch.setattr(image_folder, "open_file", refuse)


def assert_same(actual: ImageSet, expected: ImageSet) -> None:
    np.testing.assert_array_equal(actual.images, expected.images)
    np.testing.assert_array_equal(actual.labels, expected.labels)
    assert (actual.name, actual.classes, actual.test_start, actual.digest) == (
        expected.name, expected.classes, expected.test_start, expected.digest
    )  # fmt: skip


def cached(tmp_path: Path) -> Path:
    (home,) = (path for path in (tmp_path / "cache").iterdir() if not path.name.startswith("."))
    return home


class TestContents:
    def test_classes_in_folders(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        (folder / "notes.txt").write_text("not an image")
        (folder / "cat" / ".hidden.png").write_text("not an image")
        (folder / ".git").mkdir()
        result = load(folder)
        np.testing.assert_array_equal(result.images, RGB[:4].transpose(0, 3, 1, 2))
        assert result.images.dtype == np.uint8
        assert result.images.flags.c_contiguous
        np.testing.assert_array_equal(result.labels, [0, 0, 1, 1])
        assert result.labels.dtype == np.int64
        assert (result.name, result.classes, result.test_start) == ("pets", ("cat", "dog"), None)

    def test_train_and_test_halves(self, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        names = ["train/a/0", "train/a/1", "train/b/0", "test/a/0", "test/b/deeper/0"]
        for index, name in enumerate(names):
            write(tmp_path / "halves" / f"{name}.PNG", RGB[index])
        result = load(tmp_path / "halves")
        np.testing.assert_array_equal(result.images, RGB[:5].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(result.labels, [0, 0, 1, 0, 1])
        assert (result.classes, result.test_start) == (("a", "b"), 3)

    def test_train_half_alone(self, folder: Path, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        folder.rename(tmp_path / "train")
        result = load(tmp_path.rename(tmp_path.with_name("moved")))
        assert (len(result.images), result.classes, result.test_start) == (4, ("cat", "dog"), None)

    def test_train_may_be_a_class(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        (folder / "cat").rename(folder / "train")
        assert load(folder).classes == ("dog", "train")

    def test_images_cannot_be_written(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        for array in (load(folder).images, load(folder).labels):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0

    def test_all_grey_has_one_channel(self, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        grey = RGB[..., 0]
        deep = grey.astype(np.uint16) * 256 + 255  # 16 bits, whose high byte is `grey`
        write(tmp_path / "x/a/0.png", grey[0])
        write(tmp_path / "x/a/1.png", deep[1])
        write(tmp_path / "x/a/2.tif", deep[2])
        write(tmp_path / "x/b/0.png", Image.fromarray(grey[3]).convert("LA"))
        write(tmp_path / "x/b/1.png", Image.fromarray(grey[5] > 127))
        (tmp_path / "x/b/2.pgm").write_bytes(b"P5 7 5 65535\n" + deep[6].astype(">u2").tobytes())
        images = load(tmp_path / "x").images
        assert images.shape == (6, 1, 5, 7)
        expected = [grey[0], grey[1], grey[2], grey[3], np.where(grey[5] > 127, 255, 0), grey[6]]
        np.testing.assert_array_equal(images[:, 0], expected)

    @pytest.mark.parametrize("apart", [False, True], ids=["threads", "processes"])
    def test_what_8_bits_do_not_hold_is_read_by_all_images(
        self, tmp_path: Path, load: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch, apart: bool
    ) -> None:
        """16-bit files whose levels fill 12, and drawings on transparency: told, and the same at a later start."""
        if apart:
            monkeypatch.setattr(image_folder, "MANY", 1)
        levels = RGB[:, :, :, 0].astype(np.uint16) * 16 + 15  # up to 4095
        for number in range(3):
            write(tmp_path / "x" / "ab"[number % 2] / f"{number}.png", levels[number])
        ink = np.dstack([np.zeros_like(RGB[3, ..., 0]), RGB[3, ..., 0]])
        write(tmp_path / "x/b/3.png", Image.fromarray(ink))
        for _ in range(2):
            images = load(tmp_path / "x")
            np.testing.assert_array_equal(
                images.images[:, 0], [RGB[0, ..., 0], RGB[2, ..., 0], RGB[1, ..., 0], 255 - RGB[3, ..., 0]]
            )
            assert [note.partition(" reach")[0].partition(" is read")[0] for note in images.notes] == [
                "images of 16 bits",
                "what is transparent in images",
            ]

    def test_what_is_left_out_is_told_and_what_systems_leave_is_no_class(
        self, folder: Path, load: Callable[..., ImageSet]
    ) -> None:
        plain = load(folder)
        for name in ("@eaDir/x.png", "cat/@eaDir/x.png", "cat/.AppleDouble/x.png", "__MACOSX/cat/x.png"):
            write(folder / name, RGB[0])
        write(folder / "cat/._0.png", RGB[0])
        for name in ("cat/notes.txt", "cat/labels.TXT", "cat/README", "cat/Thumbs.db", "cat/.DS_Store", "classes.txt"):
            (folder / name).write_text("words")
        os.mkfifo(folder / "cat/pipe")
        told: list[str] = []
        found = load(folder, progress=told.append)
        assert (found.digest, found.classes) == (plain.digest, plain.classes)
        files, systems = (word for word in told if isinstance(word, Note))
        assert "4 files are left out, as they are no images by their names: 2 .txt, 2 without a suffix" in files
        assert all(each in systems for each in ("2 @eaDir", "1 .AppleDouble", "1 __MACOSX", "1 hidden image", "1 Thumbs.db"))

    def test_images_are_known_by_other_suffixes_or_by_how_they_begin(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        write(folder / "cat/a.png", RGB[5])
        (folder / "cat/a.png").rename(folder / "cat/a")
        Image.fromarray(RGB[6]).save(folder / "cat/b.JFIF", format="JPEG")
        assert len(load(folder).images) == 6

    def test_links_that_lead_back_end(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        plain = load(folder)
        (folder / "cat/up").symlink_to("..")
        (folder / "cat/self").symlink_to(".")
        told: list[str] = []
        assert load(folder, progress=told.append).digest == plain.digest
        assert any("links to folders that they lie in: " in word and "cat/up" in word for word in told)

    def test_a_link_that_leads_nowhere_is_named(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        (folder / "cat/gone.png").symlink_to("/nowhere/gone.png")
        with pytest.raises(DataError, match=r"cat/gone\.png"):
            load(folder)

    def test_a_class_that_is_a_link_to_nowhere_is_named(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        (folder / "zebra").symlink_to("/nowhere/zebra")
        with pytest.raises(DataError, match=r"cannot be listed.*zebra"):
            load(folder)

    def test_an_image_that_a_link_puts_into_another_class_too_is_told(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        told: list[str] = []
        load(folder, progress=told.append)
        assert not any("over again" in word for word in told)
        (folder / "cat/dogs").symlink_to("../dog")
        load(folder, progress=told.append)
        assert any("2 images are others over again, by links: cat/dogs/" in word and " is dog/" in word for word in told)

    def test_a_pipe_that_is_called_an_image_is_named(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        os.mkfifo(folder / "cat/pipe.png")
        with pytest.raises(DataError, match=r"no regular file.*cat/pipe\.png"):
            load(folder)

    def test_images_beside_the_classes_are_told(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        write(folder / "stray.png", RGB[5])
        told: list[str] = []
        load(folder, progress=told.append)
        assert any("1 images lie beside the class folders and are left out: stray.png" in word for word in told)

    def test_a_class_of_one_image_is_told(self, folder: Path, load: Callable[..., ImageSet]) -> None:
        write(folder / "rare/0.png", RGB[5])
        told: list[str] = []
        load(folder, progress=told.append)
        assert any("of rare there is one image only" in word for word in told if isinstance(word, Note))

    def test_images_of_one_level_are_refused(self, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        for name in "ab":
            write(tmp_path / f"x/{name}/0.png", np.zeros((4, 4), np.uint8))
        with pytest.raises(DataError, match=r"every pixel of all 2 images .* has the level 0 of 255"):
            load(tmp_path / "x")

    def test_images_of_few_levels_are_told(self, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        for name in "ab":
            write(tmp_path / f"x/{name}/0.png", np.eye(4, dtype=np.uint8))
        assert "lie between 0 and 1 of 255" in load(tmp_path / "x").notes[0]

    @pytest.mark.parametrize("colour_first", [True, False])
    def test_one_colour_image_makes_all_rgb(self, tmp_path: Path, load: Callable[..., ImageSet], colour_first: bool) -> None:
        pair = [RGB[0], RGB[1, ..., 0]] if colour_first else [RGB[0, ..., 0], RGB[1]]
        write(tmp_path / "x/a/0.png", pair[0])
        write(tmp_path / "x/b/0.png", pair[1])
        images = load(tmp_path / "x").images
        expected = [np.broadcast_to(np.atleast_3d(pixels), (5, 7, 3)).transpose(2, 0, 1) for pixels in pair]
        np.testing.assert_array_equal(images, expected)

    def test_every_mode_becomes_rgb(self, tmp_path: Path, load: Callable[..., ImageSet], recwarn: Any) -> None:
        palette = Image.fromarray(RGB[0] // 128 * 255).quantize(8)  # the 8 corners of the cube: no colour is lost
        clear = palette.copy()
        clear.info["transparency"] = bytes([255] * 8)
        cmyk = Image.merge("CMYK", [Image.new("L", (7, 5), value) for value in (255, 0, 0, 0)])  # cyan
        write(tmp_path / "x/a/0.png", Image.fromarray(RGB[0]).convert("RGBA"))
        write(tmp_path / "x/a/1.png", palette)
        write(tmp_path / "x/a/2.png", clear)
        write(tmp_path / "x/b/0.tif", cmyk)
        write(tmp_path / "x/b/1.bmp", RGB[2])
        write(tmp_path / "x/b/2.webp", RGB[3], lossless=True)
        images = load(tmp_path / "x").images.transpose(0, 2, 3, 1)
        corners = RGB[0] // 128 * 255
        cyan = np.broadcast_to(np.uint8([0, 255, 255]), (5, 7, 3))
        for actual, expected in zip(images, [RGB[0], corners, corners, cyan, RGB[2], RGB[3]], strict=True):
            np.testing.assert_array_equal(actual, expected)
        assert not recwarn.list

    def test_images_are_turned_upright(self, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
        write(tmp_path / "x/a/0.png", RGB[0], exif=exif)
        write(tmp_path / "x/b/0.png", np.rot90(RGB[1], -1))
        images = load(tmp_path / "x").images.transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(images, [np.rot90(RGB[0], -1), np.rot90(RGB[1], -1)])

    def test_size_resizes_the_shorter_side_and_crops_the_centre(self, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        wide = np.zeros((20, 60, 3), np.uint8)
        wide[:, 20:40] = (10, 200, 30)  # the centre square
        tall = np.full((50, 40, 3), 77, np.uint8)
        write(tmp_path / "x/a/0.png", wide)
        write(tmp_path / "x/b/0.png", tall)
        write(tmp_path / "x/b/1.jpg", np.full((400, 300, 3), 200, np.uint8))
        images = load(tmp_path / "x", 10).images
        assert images.shape == (3, 3, 10, 10)
        np.testing.assert_array_equal(images[0, :, 2:8, 2:8], np.broadcast_to(np.uint8([10, 200, 30])[:, None, None], (3, 6, 6)))
        assert (images[1] == 77).all()
        np.testing.assert_allclose(images[2], 200, atol=2)

    def test_size_keeps_pixels_that_fit_already(self, tmp_path: Path, load: Callable[..., ImageSet]) -> None:
        write(tmp_path / "x/a/0.png", RGB[0][:, :5])
        write(tmp_path / "x/b/0.png", RGB[1][:, :5])
        np.testing.assert_array_equal(load(tmp_path / "x", 5).images, RGB[:2, :, :5].transpose(0, 3, 1, 2))

    def test_progress_ends_at_the_total(self, folder: Path, load: Callable[..., ImageSet], monkeypatch: Any) -> None:
        monkeypatch.setattr(items, "CHUNK", 3)
        seen: list[str] = []
        load(folder, progress=seen.append)
        assert seen == ["decoding images: 3 of 4", "decoding images: 4 of 4"]

    @pytest.mark.parametrize("small", [0, 1 << 20], ids=["threads", "one_thread"])
    def test_every_image_is_in_its_place(self, tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch, small: int) -> None:
        monkeypatch.setattr(items, "CHUNK", 3)
        monkeypatch.setattr(image_folder, "SMALL", small)
        for index in range(40):
            write(tmp_path / "x" / str(index // 10) / f"{index % 10}.png", RGB[index])
        np.testing.assert_array_equal(load(tmp_path / "x").images, RGB.transpose(0, 3, 1, 2))


class TestCache:
    def test_second_load_opens_no_image(self, folder: Path, load: Any, no_decoding: Any) -> None:
        first = load(folder)
        no_decoding()
        assert_same(load(folder), first)

    def test_a_moved_folder_keeps_its_cache_and_takes_its_new_name(self, folder: Path, load: Any, no_decoding: Any) -> None:
        first = load(folder)
        no_decoding()
        moved = load(folder.rename(folder.with_name("animals")))
        assert (moved.name, moved.digest) == ("animals", first.digest)

    @pytest.mark.parametrize("change", ["content", "added", "removed", "renamed", "class renamed"])
    def test_a_changed_folder_is_read_again(self, folder: Path, load: Any, change: str) -> None:
        first = load(folder)
        if change == "content":
            write(folder / "cat/0.png", RGB[9])
        elif change == "added":
            write(folder / "cat/2.png", RGB[9])
        elif change == "removed":
            (folder / "cat/1.png").unlink()
        elif change == "renamed":
            (folder / "cat/0.png").rename(folder / "cat/2.png")
        else:
            (folder / "cat").rename(folder / "bat")
        second = load(folder)
        assert second.digest != first.digest
        if change == "content":
            np.testing.assert_array_equal(second.images[0], RGB[9].transpose(2, 0, 1))

    def test_size_has_a_cache_of_its_own(self, folder: Path, load: Any) -> None:
        assert load(folder).images.shape[2:] == (5, 7)
        assert load(folder, 4).images.shape[2:] == (4, 4)
        assert load(folder).images.shape[2:] == (5, 7)

    def test_digest_is_of_the_content(self, folder: Path, load: Any, tmp_path: Path) -> None:
        """Another machine: other times, another file format, the same pixels."""
        first = load(folder)
        for file in folder.glob("*/*.png"):
            os.utime(file, ns=(1, 1))
            with Image.open(file) as image:
                write(tmp_path / "copy" / file.parent.name / f"{file.stem}.bmp", image.copy())
        assert load(folder).digest == load(tmp_path / "copy").digest == first.digest

    def test_digest_knows_halves_and_class_names(self, folder: Path, load: Any, tmp_path: Path) -> None:
        first = load(folder)
        for name in ("cat", "dog"):
            for half, stem in (("train", "0"), ("test", "1")):
                (tmp_path / "halves" / half / name).mkdir(parents=True)
                shutil.copy(folder / name / f"{stem}.png", tmp_path / "halves" / half / name)
        halves = load(tmp_path / "halves")
        (folder / "cat").rename(folder / "bat")
        assert len({first.digest, halves.digest, load(folder).digest}) == 3

    @pytest.mark.parametrize(
        "damage",
        [
            lambda home: os.truncate(home / "images.npy", 200),
            lambda home: os.truncate(home / "images.npy", 10),
            lambda home: os.truncate(home / "images.npy", 0),
            lambda home: os.truncate(home / "labels.npy", 130),
            lambda home: os.truncate(home / "meta.json", 20),
            lambda home: (home / "meta.json").write_text("[]"),
            lambda home: (home / "meta.json").write_text('{"format": 0}'),
            lambda home: (home / "meta.json").write_bytes(b"\xff\xfe"),
            lambda home: (home / "meta.json").unlink(),
            lambda home: np.save(home / "images.npy", np.zeros((4, 3, 5, 8), np.uint8)),
            lambda home: np.save(home / "images.npy", np.zeros((4, 3, 5, 7), np.float32)),
            lambda home: np.save(home / "labels.npy", np.zeros(3, np.int64)),
            lambda home: np.save(home / "labels.npy", np.zeros(4, np.int32)),
            lambda home: np.save(home / "labels.npy", np.array([{}]), allow_pickle=True),
            lambda home: (shutil.rmtree(home), home.write_text("a file")),
            lambda home: shutil.rmtree(home),
        ],
    )
    def test_a_damaged_cache_is_built_again(self, folder: Path, load: Any, tmp_path: Path, damage: Any, no_decoding: Any) -> None:
        first = load(folder)
        expected = np.array(first.images)
        damage(cached(tmp_path))
        second = load(folder)
        np.testing.assert_array_equal(second.images, expected)
        assert second.digest == first.digest
        no_decoding()
        assert_same(load(folder), second)

    def test_a_cache_of_another_folder_is_not_taken(self, folder: Path, load: Any, tmp_path: Path) -> None:
        load(folder)
        home = cached(tmp_path).rename(tmp_path / "stale")
        write(folder / "cat/0.png", RGB[9])
        expected = load(folder).digest
        fresh = cached(tmp_path)
        shutil.rmtree(fresh)
        home.rename(fresh)
        assert load(folder).digest == expected

    def test_a_killed_build_leaves_nothing_behind(self, folder: Path, load: Any, tmp_path: Path) -> None:
        def killed(words: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            load(folder, progress=killed)
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
        lock = next((tmp_path / "cache").iterdir())
        (lock.with_suffix(".building") / "new").mkdir(parents=True)  # what a killed process cannot clear away
        assert len(load(folder).images) == 4
        assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1

    def test_two_processes_at_once(self, folder: Path, tmp_path: Path) -> None:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(load_image_folder, tmp_path / "cache", folder) for _ in range(4)]
            results = [future.result() for future in futures]
        for result in results:
            np.testing.assert_array_equal(result.images, RGB[:4].transpose(0, 3, 1, 2))
        assert len({result.digest for result in results}) == 1

    def test_a_map_in_use_outlives_its_cache(self, folder: Path, load: Any, tmp_path: Path) -> None:
        first = load(folder)
        shutil.rmtree(tmp_path / "cache")
        np.testing.assert_array_equal(load(folder).images, first.images)


class TestErrors:
    def expect(self, load: Any, path: Path, *parts: str, size: int | None = None) -> None:
        with pytest.raises(DataError) as caught:
            load(path, size)
        message = str(caught.value)
        assert "\n" not in message
        for part in parts:
            assert part in message

    def test_missing_folder(self, tmp_path: Path, load: Any) -> None:
        self.expect(load, tmp_path / "none", str(tmp_path / "none"), "does not exist", "sub-folder a class")

    def test_a_file_is_no_folder(self, tmp_path: Path, load: Any) -> None:
        (tmp_path / "file").write_text("")
        self.expect(load, tmp_path / "file", "does not exist")

    def test_no_class_folder(self, tmp_path: Path, load: Any) -> None:
        write(tmp_path / "x/0.png", RGB[0])
        self.expect(load, tmp_path / "x", "holds no sub-folder", "path/<class>/*.png", "folder of its own")

    def test_one_class(self, tmp_path: Path, load: Any) -> None:
        write(tmp_path / "x/cat/0.png", RGB[0])
        self.expect(load, tmp_path / "x", "holds cat;", "at least two class folders")

    def test_halves_without_classes(self, tmp_path: Path, load: Any) -> None:
        write(tmp_path / "x/train/0.png", RGB[0])
        write(tmp_path / "x/test/0.png", RGB[0])
        self.expect(load, tmp_path / "x", "holds test, train;", "path/train/<class>/*.png")

    def test_empty_class(self, folder: Path, load: Any) -> None:
        (folder / "emu").mkdir()
        (folder / "emu/data.npy").write_text("")
        self.expect(load, folder, str(folder / "emu"), "holds no image", ".jpeg", "remove it")

    def test_classes_differ(self, tmp_path: Path, load: Any) -> None:
        for name in ("train/a", "train/b", "test/a", "test/c"):
            write(tmp_path / "x" / name / "0.png", RGB[0])
        self.expect(load, tmp_path / "x", "the same classes", "b, c are only in one")

    def test_empty_class_in_the_test_half(self, tmp_path: Path, load: Any) -> None:
        for name in ("train/a", "train/b", "test/a"):
            write(tmp_path / "x" / name / "0.png", RGB[0])
        (tmp_path / "x/test/b").mkdir()
        self.expect(load, tmp_path / "x", str(tmp_path / "x/test/b"), "holds no image", "remove it")

    @pytest.mark.parametrize("halves", [("Train", "Test"), ("training", "validation"), ("test", "val")])
    def test_halves_by_other_names(self, tmp_path: Path, load: Any, halves: tuple[str, str]) -> None:
        for half in halves:
            for name in ("a", "b"):
                write(tmp_path / "x" / half / name / "0.png", RGB[0])
        self.expect(load, tmp_path / "x", f"holds {', '.join(sorted(halves))} with folders inside", "Rename the halves")

    def test_val_beside_train(self, tmp_path: Path, load: Any) -> None:
        for name in ("train/a", "train/b", "val/a", "val/b"):
            write(tmp_path / "x" / name / "0.png", RGB[0])
        self.expect(load, tmp_path / "x", "holds val beside train", "train and test", "links")

    def test_sizes_differ(self, folder: Path, load: Any) -> None:
        write(folder / "dog/9.png", RGB[0][:4])
        self.expect(load, folder, "differ in size", "dog/9.png is 7 x 4", "others are 7 x 5", "Set `size`")

    @pytest.mark.parametrize("size", [0, -3])
    def test_size_out_of_range(self, folder: Path, load: Any, size: int) -> None:
        self.expect(load, folder, f"size is {size}", "from 1 up", size=size)

    def test_broken_images_are_counted_and_named(self, folder: Path, load: Any, tmp_path: Path) -> None:
        for index in range(6):
            (folder / f"dog/x{index}.png").write_text("no image")
        whole = (folder / "cat/0.png").read_bytes()
        (folder / "cat/2.png").write_bytes(whole[:60])
        (folder / "cat/3.png").write_bytes(b"")
        write(folder / "cat/4.tif", np.zeros((5, 7), np.float32))
        named = ("cat/2.png (", "cat/3.png (not an image that Pillow can read)", "cat/4.tif (TIFF of mode F", "dog/x1.png")
        self.expect(load, folder, "9 of 13 images", *named, "and 4 more", "Replace or remove them")
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
        for name in ["cat/2.png", "cat/3.png", "cat/4.tif", *(f"dog/x{index}.png" for index in range(6))]:
            (folder / name).unlink()
        assert len(load(folder).images) == 4

    def test_first_image_broken(self, folder: Path, load: Any) -> None:
        (folder / "cat/0.png").write_text("no image")
        self.expect(load, folder, "1 of 4 images", "cat/0.png (not an image that Pillow can read)")

    def test_broken_images_of_both_halves(self, tmp_path: Path, load: Any) -> None:
        for index, name in enumerate(["train/a/0", "train/b/0", "train/b/1", "test/a/0", "test/b/0"]):
            write(tmp_path / "x" / f"{name}.png", RGB[index])
        for name in ("train/b/0", "test/b/0"):
            (tmp_path / "x" / f"{name}.png").write_text("no image")
        self.expect(load, tmp_path / "x", "2 of 5 images under", "train/b/0.png (not an image", "test/b/0.png (not an image")

    @pytest.mark.parametrize("channels", [2, 5])
    def test_wrong_number_of_channels(self, folder: Path, load: Any, channels: int) -> None:
        size = 5 * 7 * channels  # one strip of pixels at byte 8, then TIFF's list of tags
        tags = {256: 7, 257: 5, 258: 8, 259: 1, 262: 1, 273: 8, 277: channels, 278: 5, 279: size}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        header = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size)
        (folder / "dog/2.tif").write_bytes(header + struct.pack("<H", len(tags)) + entries + bytes(4))
        self.expect(load, folder, "1 of 5 images", "dog/2.tif (not an image that Pillow can read)")

    def test_all_images_broken(self, folder: Path, load: Any) -> None:
        for file in folder.glob("*/*.png"):
            file.write_text("no image")
        self.expect(load, folder, "4 of 4 images", "dog/1.png (not an image that Pillow can read)")

    def test_dangling_link(self, folder: Path, load: Any, tmp_path: Path) -> None:
        (folder / "cat/link.png").symlink_to(tmp_path / "gone.png")
        self.expect(load, folder, "cannot be listed", "link.png", "permissions and links")

    def test_cache_that_cannot_be_written(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(DataError, match=r"cache .* cannot be written: .*Choose a local folder"):
            load_image_folder(tmp_path / "cache", folder)

    def test_full_disk(self, folder: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 900, 100))  # type: ignore[attr-defined]
        self.expect(load, folder, "4 decoded images", "0.0 GB left", "Free some space")


def test_many_small_files_are_read_by_processes_and_are_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = load_image_folder(tmp_path / "alone", folder)
    monkeypatch.setattr(image_folder, "MANY", 1)
    monkeypatch.setattr(image_folder, "cores", lambda: 2)
    monkeypatch.setattr(items, "FEW_TASKS", 3)
    together = load_image_folder(tmp_path / "together", folder)
    assert together.digest == alone.digest
    broken = next(folder.rglob("*.png"))
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"1 of .* cannot be read: .*{broken.name}"):
        load_image_folder(tmp_path / "broken", folder)
