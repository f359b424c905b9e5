"""The teacher's features: standardised over the train split, dead channels left out; from the cache or on line, the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kd_hpo.core.plan import LayerShape
from kd_hpo.data import teacher_targets as module
from kd_hpo.data.batches import ImageBatches, chunks, drawn_batch, shuffled_batches
from kd_hpo.data.datasets import load_digits
from kd_hpo.data.teacher_sample import Sample
from kd_hpo.data.teacher_targets import CachedTargets, TeacherReader, cached_bytes, cached_targets, teacher_reader
from kd_hpo.errors import DataError, FeatureMismatch
from kd_hpo.nets.features import FeatureTap, layer_shapes
from kd_hpo.nets.zoo import build_network

TRAIN, OUTER = np.arange(0, 200), np.arange(300, 350)
BOTH = np.concatenate([TRAIN, OUTER])
STUDENT = (LayerShape("wide", 4, 4, 4), LayerShape("vector", 8, 1, 1))
LAYERS = ("conv1", "fc")


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> ImageBatches:
    return ImageBatches(load_digits(tmp_path_factory.mktemp("digits")), TRAIN, torch.device("cpu"))


@pytest.fixture
def teacher() -> nn.Module:
    network = build_network("plain_conv", {"channels": [6, 8], "hidden": 10, "padding": 1}, (1, 8, 8), 10, seed=3).eval()
    with torch.no_grad():
        network.get_submodule("conv1.0").weight[2].zero_()  # type: ignore[union-attr, operator]
        network.get_submodule("conv1.0").bias[2] = 1.0  # type: ignore[union-attr, index]
    return network


def read(
    teacher: nn.Module, batches: ImageBatches, cache: Path, *, standardised: bool = True, meet: bool = True
) -> TeacherReader:
    return teacher_reader(
        teacher, LAYERS, batches, TRAIN, STUDENT, logits_pair=False, meet=meet, standardised=standardised, cache=cache
    )


def cached(teacher: nn.Module, batches: ImageBatches, cache: Path) -> CachedTargets:
    return cached_targets(read(teacher, batches, cache), BOTH, cache)


def test_blocks_hold_pooled_features_standardised_over_the_train_split(
    teacher: nn.Module, batches: ImageBatches, tmp_path: Path
) -> None:
    targets = cached(teacher, batches, tmp_path)
    assert targets.plan.teacher[0].channels == 5  # channel 2 of conv1 never varies
    images = np.array([3, 320, 7])
    x = batches.inputs(images)
    with torch.no_grad(), FeatureTap(teacher, LAYERS) as tap:
        logits, _ = tap(x)
        conv1, some = (tap(batches.inputs(of))[1][0][:, [0, 1, 3, 4, 5]].mean((2, 3)) for of in (TRAIN, images))
        wanted = (some - conv1.mean(0)) / conv1.std(0, correction=0)
    batch = targets.batch(images, x, targets.plan.sizes)
    torch.testing.assert_close(batch.logits, logits)
    torch.testing.assert_close(targets.logits(images, x), logits)
    layers = targets.plan.blocks[1, 1]
    start = 0 if layers[0] == 0 else targets.plan.teacher[1].channels
    torch.testing.assert_close(batch.blocks[1, 1][:, 0, start : start + 5], wanted, rtol=1e-3, atol=1e-4)
    whole = targets.batch(TRAIN, batches.inputs(TRAIN), targets.plan.sizes).blocks
    for block in whole.values():
        torch.testing.assert_close(block.mean((0, 1)), torch.zeros(block.shape[2]), rtol=0, atol=1e-4)
        torch.testing.assert_close(block.std((0, 1), correction=0), torch.ones(block.shape[2]), rtol=0, atol=1e-3)


def test_on_line_says_of_plain_images_what_the_cache_says(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    reader, images = read(teacher, batches, tmp_path), np.array([5, 310, 9])
    x = batches.inputs(images)
    sizes = reader.plan.sizes
    online, stored = reader.batch(images, x, sizes), cached_targets(reader, BOTH, tmp_path).batch(images, x, sizes)
    torch.testing.assert_close(online.logits, stored.logits)
    torch.testing.assert_close(reader.logits(images, x), stored.logits)
    assert online.blocks.keys() == stored.blocks.keys()
    for size, block in stored.blocks.items():
        torch.testing.assert_close(online.blocks[size], block, rtol=1e-4, atol=1e-4)
    mirrored = reader.batch(images, x.flip(3), sizes)  # another view, other targets
    assert not torch.allclose(mirrored.blocks[4, 4], online.blocks[4, 4], atol=0.1)


def test_reading_leaves_no_hook_and_no_mode_behind(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    cached(teacher, batches, tmp_path)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())
    assert teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_comparisons_read_the_features_as_they_are(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    reader, images = read(teacher, batches, tmp_path, standardised=False, meet=False), np.array([5, 310])
    x = batches.inputs(images)
    with torch.no_grad(), FeatureTap(teacher, LAYERS) as tap:
        conv1, fc = tap(x)[1]
    blocks = reader.batch(images, x, reader.plan.sizes).blocks
    assert blocks.keys() == {(4, 4), (1, 1)}  # each layer at its own resolution
    torch.testing.assert_close(blocks[4, 4], conv1.flatten(2).transpose(1, 2))
    torch.testing.assert_close(blocks[1, 1][:, 0], fc)


def test_second_time_reads_the_cache(
    teacher: nn.Module, batches: ImageBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(teacher, batches, tmp_path)
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("written again"))
    second = cached(teacher, batches, tmp_path)
    assert all(np.array_equal(first.blocks[size], second.blocks[size]) for size in first.blocks)
    assert isinstance(second.blocks[1, 1], np.memmap)
    assert not second.blocks[1, 1].flags.writeable


def test_what_a_killed_process_has_left_goes(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    cached(teacher, batches, tmp_path)
    (folder,) = tmp_path.glob("teacher-targets-*")
    folder.rename(tmp_path / f".{folder.name}.{'0' * 32}")
    cached(teacher, batches, tmp_path)
    assert folder.is_dir()
    assert [path.name for path in tmp_path.glob(f".{folder.name}.*")] == [f".{folder.name}.lock"]


def test_other_weights_are_another_cache(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    first = cached(teacher, batches, tmp_path)
    with torch.no_grad():
        teacher.get_submodule("fc.0").weight.mul_(-2)  # type: ignore[union-attr, operator]
    assert not np.array_equal(first.all_logits, cached(teacher, batches, tmp_path).all_logits)


def test_images_that_were_not_read_are_refused(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    """Where -1 stood for them, the last row was read: another image's teacher."""
    targets, x = cached(teacher, batches, tmp_path), torch.empty(0)
    for wrong in ([3, 250], [-1], [1797]):
        with pytest.raises(DataError, match=f"image {wrong[-1]}, which is none of those"):
            targets.logits(np.array(wrong), x)
        with pytest.raises(DataError, match="none of those"):
            targets.batch(np.array(wrong), x, targets.plan.sizes)


def test_features_of_another_teacher_under_the_same_digest_are_read_again(
    teacher: nn.Module, batches: ImageBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no digest sees, such as a driver's or a library's change, is seen on a sample."""
    monkeypatch.setattr(module, "network_digest", lambda _: "the same")
    first, told = read(teacher, batches, tmp_path), list[str]()
    cached_targets(first, BOTH, tmp_path)
    with torch.no_grad():
        teacher.get_submodule("logits").weight.mul_(-2)  # type: ignore[union-attr, operator]
    reader = read(teacher, batches, tmp_path)
    again = cached_targets(reader, BOTH, tmp_path, progress=told.append)
    torch.testing.assert_close(again.logits(BOTH[:9], torch.empty(0)), reader.logits(BOTH[:9], batches.inputs(BOTH[:9])))
    assert cached_targets(reader, BOTH, tmp_path, progress=told.append).plan == again.plan
    assert len(told) == 1 and "read again" in told[0]


def test_a_sample_tells_a_changed_teacher(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    with FeatureTap(teacher, LAYERS) as tap:
        shapes = layer_shapes(tap, batches.input_shape)
    Sample(teacher, shapes, batches, BOTH).keep(tmp_path, lambda: None)
    assert Sample(teacher, shapes, batches, BOTH).holds(tmp_path) == tmp_path
    with torch.no_grad():
        teacher.get_submodule("conv1.0").bias[0] += 0.3  # type: ignore[union-attr, index, operator]
    changed = Sample(teacher, shapes, batches, BOTH)
    assert changed.holds(tmp_path) is None and changed.outdated


def test_a_teacher_that_is_never_the_same_is_not_read_again_each_time(batches: ImageBatches, tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.rand(len(x), 10)

    Sample(Noisy(), (), batches, BOTH).keep(tmp_path, lambda: None)
    assert Sample(Noisy(), (), batches, BOTH).holds(tmp_path) == tmp_path


def test_layer_that_never_varies_is_told(batches: ImageBatches, tmp_path: Path) -> None:
    network = build_network("plain_conv", {"channels": [4], "hidden": 4, "padding": 1}, (1, 8, 8), 10, seed=0).eval()
    with torch.no_grad():
        network.get_submodule("fc.0").weight.zero_()  # type: ignore[union-attr, operator]
    with pytest.raises(FeatureMismatch, match=r"teacher layer fc .* never varies .* leave it out"):
        read(network, batches, tmp_path)


def test_full_disk_is_told_before_anything_is_written(
    teacher: nn.Module, batches: ImageBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = read(teacher, batches, tmp_path)
    monkeypatch.setattr(module, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match=r"features of 250 images take 0.0 GB .* set teacher.features: online"):
        cached_targets(reader, BOTH, tmp_path)
    assert not list(tmp_path.glob("teacher-targets-*"))


def test_inputs_are_normalised_by_the_train_split(batches: ImageBatches) -> None:
    x = batches.inputs(TRAIN)
    assert x.shape == (200, 1, 8, 8)
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(correction=0), torch.tensor(1.0), rtol=0, atol=1e-5)


def test_orders_are_functions_of_their_key() -> None:
    indices = np.arange(100, 203)
    first = list(shuffled_batches(indices, 10, 1, 2))
    assert [len(batch) for batch in first] == [10] * 10  # the partial one is left out
    assert len(set(np.concatenate(first))) == 100
    assert all(np.array_equal(a, b) for a, b in zip(first, shuffled_batches(indices, 10, 1, 2), strict=True))
    assert not np.array_equal(first[0], next(shuffled_batches(indices, 10, 1, 3)))
    assert len(drawn_batch(indices, 500, 0)) == 103
    assert [len(chunk) for chunk in chunks(indices, 50)] == [50, 50, 3]


def test_bfloat16_takes_half_and_says_the_same_to_three_digits(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    reader, images = read(teacher, batches, tmp_path), np.array([5, 310, 9])
    whole, half = cached_targets(reader, BOTH, tmp_path), cached_targets(reader, BOTH, tmp_path, "bfloat16")
    x = batches.inputs(images)
    for size, block in whole.batch(images, x, reader.plan.sizes).blocks.items():
        found = half.batch(images, x, reader.plan.sizes).blocks[size]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, block, rtol=2**-8, atol=1e-6)  # eight bits of the fraction, rounded
        assert 2 * half.blocks[size].nbytes == whole.blocks[size].nbytes
    torch.testing.assert_close(half.logits(images, x), whole.logits(images, x))
    stored = sum(block.nbytes for block in half.blocks.values())
    assert (cached_bytes(reader, BOTH, "bfloat16"), cached_bytes(reader, BOTH)) == (stored, 2 * stored)


_READER = """
import sys, numpy, psutil
arrays = [numpy.load(file, mmap_mode="r") for file in sys.argv[1:]]
print(sum(float(array.sum()) for array in arrays), flush=True)
sys.stdin.readline()
maps = [m for m in psutil.Process().memory_maps(grouped=False) if m.path in sys.argv[1:]]
print(sum(m.pss for m in maps), sum(m.rss for m in maps), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not say who shares memory")
def test_processes_on_a_machine_hold_one_copy_together(teacher: nn.Module, batches: ImageBatches, tmp_path: Path) -> None:
    """Proportional set size: what several processes share counts for each with its share."""
    targets = cached(teacher, batches, tmp_path)
    files = [str(block.filename) for block in targets.blocks.values() if isinstance(block, np.memmap)]
    readers = [
        subprocess.Popen([sys.executable, "-c", _READER, *files], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        for reader in readers:  # each has read all of it
            assert reader.stdout is not None
            reader.stdout.readline()
        told = list[tuple[int, int]]()
        for reader in readers:
            assert reader.stdout is not None and reader.stdin is not None
            reader.stdin.write("\n")
            reader.stdin.flush()
            pss, rss = map(int, reader.stdout.readline().split())
            told.append((pss, rss))
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    size = sum(Path(file).stat().st_size for file in files)
    assert all(rss >= size for _, rss in told)
    assert sum(pss for pss, _ in told) < 1.1 * size + 3 * 4096 * len(files)
