"""The teacher's features: computed once, standardised over the train split, dead channels left out, read by image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kd_hpo.core.plan import LayerShape
from kd_hpo.data import teacher_targets as module
from kd_hpo.data.batches import ImageBatches, chunks, drawn_batch, shuffled_batches
from kd_hpo.data.datasets import load_digits
from kd_hpo.data.teacher_targets import TeacherTargets, teacher_targets
from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.zoo import build_network

TRAIN, OUTER = np.arange(0, 200), np.arange(300, 350)
STUDENT = (LayerShape("wide", 4, 4, 4), LayerShape("vector", 8, 1, 1))


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> ImageBatches:
    return ImageBatches(load_digits(tmp_path_factory.mktemp("digits")), TRAIN, torch.device("cpu"))


@pytest.fixture
def tap() -> FeatureTap:
    network = build_network("plain_conv", {"channels": [6, 8], "hidden": 10, "padding": 1}, (1, 8, 8), 10, seed=3).eval()
    with torch.no_grad():
        network.get_submodule("conv1.0").weight[2].zero_()  # type: ignore[union-attr, operator]
        network.get_submodule("conv1.0").bias[2] = 1.0  # type: ignore[union-attr, index]
    return FeatureTap(network, ("conv1", "fc"))


def made(tap: FeatureTap, batches: ImageBatches, cache: Path) -> TeacherTargets:
    return teacher_targets(tap, batches, TRAIN, OUTER, STUDENT, logits_pair=False, cache=cache)


def test_blocks_hold_pooled_features_standardised_over_the_train_split(
    tap: FeatureTap, batches: ImageBatches, tmp_path: Path
) -> None:
    targets = made(tap, batches, tmp_path)
    assert targets.plan.teacher[0].channels == 5  # channel 2 of conv1 never varies
    images = np.array([3, 320, 7])
    with torch.no_grad():
        logits, _ = tap(batches.inputs(images))
        conv1, some = (tap(batches.inputs(of))[1][0][:, [0, 1, 3, 4, 5]].mean((2, 3)) for of in (TRAIN, images))
        wanted = (some - conv1.mean(0)) / conv1.std(0, correction=0)
    batch = targets.batch(images)
    torch.testing.assert_close(batch.logits, logits)
    layers = targets.plan.blocks[1, 1]
    start = 0 if layers[0] == 0 else targets.plan.teacher[1].channels
    torch.testing.assert_close(batch.blocks[1, 1][:, 0, start : start + 5], wanted, rtol=1e-3, atol=1e-4)
    whole = targets.batch(TRAIN).blocks
    for block in whole.values():
        torch.testing.assert_close(block.mean((0, 1)), torch.zeros(block.shape[2]), rtol=0, atol=1e-4)
        torch.testing.assert_close(block.std((0, 1), correction=0), torch.ones(block.shape[2]), rtol=0, atol=1e-3)


def test_second_time_reads_the_cache(
    tap: FeatureTap, batches: ImageBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tap, batches, tmp_path)
    monkeypatch.setattr(module, "_compute", lambda *_: pytest.fail("computed again"))
    second = made(tap, batches, tmp_path)
    assert all(np.array_equal(first.blocks[size], second.blocks[size]) for size in first.blocks)
    assert isinstance(second.blocks[1, 1], np.memmap)
    assert not second.blocks[1, 1].flags.writeable


def test_other_weights_are_another_cache(tap: FeatureTap, batches: ImageBatches, tmp_path: Path) -> None:
    first = made(tap, batches, tmp_path)
    with torch.no_grad():
        tap.network.get_submodule("fc.0").weight.mul_(-2)  # type: ignore[union-attr, operator]
    assert not np.array_equal(first.logits, made(tap, batches, tmp_path).logits)


def test_layer_that_never_varies_is_told(batches: ImageBatches, tmp_path: Path) -> None:
    network = build_network("plain_conv", {"channels": [4], "hidden": 4, "padding": 1}, (1, 8, 8), 10, seed=0).eval()
    with torch.no_grad():
        network.get_submodule("fc.0").weight.zero_()  # type: ignore[union-attr, operator]
    with pytest.raises(FeatureMismatch, match=r"teacher layer fc .* never varies .* leave it out"):
        made(FeatureTap(network, ("conv1", "fc")), batches, tmp_path)


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
