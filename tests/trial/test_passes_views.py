"""Random views of the training images: the teacher sees the student's, nothing else does, and a resumed trial sees them again."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from kd_hpo.config.load import with_settings
from kd_hpo.core.logit_losses import categorical_kl
from kd_hpo.data.batches import shuffled_batches
from kd_hpo.data.teacher_targets import CachedTargets, TeacherReader
from kd_hpo.errors import ConfigError
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.passes import buffers_of
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

ALL = ("flip", "crop", "cutout", "mixup")
BY_NAME = ({"name": "TrivialAugmentWide"}, "flip", {"name": "RandomErasing"}, {"name": "CutMix", "arguments": {"alpha": 1.0}})


def test_features_are_cached_for_plain_images_and_on_line_for_views(cache: Path, prepared: Prepared) -> None:
    assert isinstance(prepared.targets, CachedTargets)
    assert isinstance(prepare(digits_trial(augment=ALL), cache).targets, TeacherReader)
    online = with_settings(digits_trial(), {"teacher.features": "online"})
    assert isinstance(prepare(online, cache).targets, TeacherReader)


def test_cached_features_of_random_views_are_refused(cache: Path) -> None:
    config = with_settings(digits_trial(augment=("flip",)), {"teacher.features": "cached"})
    with pytest.raises(
        ConfigError,
        match=r"teacher.features is cached.* \(flip\)",
    ):
        prepare(config, cache)


def test_on_line_trial_of_plain_images_is_the_cached_one(cache: Path, prepared: Prepared) -> None:
    online = with_settings(digits_trial(), {"teacher.features": "online"})
    stored = run_trial(digits_trial(), lambda _: None, cache=cache, prepared=prepared)
    found = run_trial(online, lambda _: None, cache=cache)
    torch.testing.assert_close(torch.tensor(found.held_mean), torch.tensor(stored.held_mean), rtol=1e-3, atol=1e-4)
    assert found.last.metrics["train/loss"] == pytest.approx(stored.last.metrics["train/loss"], rel=1e-3)


@pytest.mark.parametrize(("augment", "smoothing"), [(ALL, None), (BY_NAME, 0.1)], ids=["own", "torchvision"])
def test_teacher_and_student_see_one_view_and_mixed_labels_are_learned(
    cache: Path, augment: tuple[object, ...], smoothing: float | None
) -> None:
    training = {"epochs": 4, "batch_size": 32, "label_smoothing": smoothing}
    config = digits_trial(augment=augment, weighting={"kind": "none"}, kd={"weight": 2.0, "temperature": 3.0}, training=training)
    prepared = prepare(config, cache)
    trial = start_trial(config, prepared)
    batch = next(iter(shuffled_batches(prepared.splits.train, 32, 0)))
    seen = trial.view_of(batch)
    assert not torch.equal(seen.x, prepared.batches.inputs(batch))
    logits, _ = functional_call(trial.student, buffers_of(trial), (seen.x,))
    with torch.no_grad():
        teacher = prepared.teacher.network(seen.x)
    loss = (
        seen.over_labels(partial(F.cross_entropy, logits, label_smoothing=smoothing or 0.0))
        + 2.0 * categorical_kl(logits, teacher, 3.0).mean()
    )
    expected = torch.autograd.grad(loss, list(trial.parameters.values()))
    train_step(trial, batch)
    for parameter, gradient in zip(trial.parameters.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_views_differ_from_step_to_step_and_come_again_after_a_resume(cache: Path) -> None:
    config = digits_trial(augment=ALL)
    trial = start_trial(config, prepare(config, cache))
    batch = trial.prepared.splits.train[:8]
    first, again = trial.view_of(batch).x, trial.view_of(batch).x
    assert torch.equal(first, again)
    trial.step += 1
    assert not torch.equal(trial.view_of(batch).x, first)
    other = start_trial(config.replace(seed=1), trial.prepared)
    assert not torch.equal(other.view_of(batch).x, first)


def test_learned_weights_with_views(cache: Path) -> None:
    weighting = {"kind": "learned", "every": 2, "outer_objective": "task_and_pairs", "evidence": False}
    result = run_trial(digits_trial(augment=ALL, weighting=weighting), lambda _: None, cache=cache)
    assert sum(map(sum, result.held_mean)) == pytest.approx(1, abs=1e-5)
    assert len({round(x, 9) for row in result.held_mean for x in row}) > 1


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_precision_and_memory_format_change_little(cache: Path, prepared: Prepared, settings: dict[str, object]) -> None:
    """The same trial in another number format: close losses, float32 weights and records, another value than float32's."""
    weighting = {"kind": "learned", "every": 2, "evidence": False}
    plain = run_trial(digits_trial(weighting=weighting), lambda _: None, cache=cache, prepared=prepared)
    other = run_trial(digits_trial(weighting=weighting, **settings), lambda _: None, cache=cache)
    assert other.last.metrics["train/loss"] == pytest.approx(plain.last.metrics["train/loss"], rel=0.1)
    torch.testing.assert_close(torch.tensor(other.held_mean), torch.tensor(plain.held_mean), rtol=0.3, atol=0.05)
    if "precision" in settings:
        assert other.last.metrics["train/loss"] != plain.last.metrics["train/loss"]


# ---- views that are kept


KEPT = {"teacher.cached_views": 2}


@pytest.mark.parametrize("augment", [ALL[:3], BY_NAME[:3]], ids=["own", "torchvision"])
def test_kept_views_are_those_that_the_teacher_read_and_come_in_turn(cache: Path, augment: tuple[object, ...]) -> None:
    """Two views of each image: an epoch shows one, the next the other, then the first again; every trial sees the same."""
    config = with_settings(digits_trial(augment=augment), KEPT)
    prepared = prepare(config, cache)
    assert isinstance(prepared.targets, CachedTargets)
    trial, other = start_trial(config, prepared), start_trial(config.replace(seed=1), prepared)
    batch, seen = trial.prepared.splits.train[:16], []
    for _ in range(3):
        numbers = trial.viewed(batch)
        x = trial.view_of(numbers).x
        assert torch.equal(x, other.view_of(other.viewed(batch)).x)
        assert torch.equal(trial.view_of(numbers).labels, prepared.batches.labels(batch))
        with torch.no_grad():
            torch.testing.assert_close(prepared.targets.logits(numbers, x), prepared.teacher.network(x))
        online = prepare(with_settings(digits_trial(), {"teacher.features": "online"}), cache).targets
        assert isinstance(online, TeacherReader)
        sizes = prepared.plan.sizes
        for size, block in prepared.targets.batch(numbers, x, sizes).blocks.items():
            torch.testing.assert_close(block, online.batch(batch, x, sizes).blocks[size], rtol=1e-4, atol=1e-4)
        seen.append(x)
        for one in (trial, other):
            one.step += one.steps_per_epoch
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert all(not torch.equal(x, prepared.batches.inputs(batch)) for x in seen)


def test_the_views_of_outer_images_that_train_are_kept_too(cache: Path) -> None:
    """As `apply` trains. Each was answered by another image's teacher before, from the last row of the cache."""
    config = with_settings(digits_trial(augment=ALL[:2]), KEPT)
    apart, prepared = prepare(config, cache), prepare(config, cache, outer_trains=True)
    splits = prepared.splits
    assert set(splits.train) == {*apart.splits.train, *apart.splits.outer} and not len(splits.outer)
    assert splits.digests["train"] != apart.splits.digests["train"] and splits.digests["val"] == apart.splits.digests["val"]
    assert prepared.teacher_digest == apart.teacher_digest
    for number in range(2):
        viewed = prepared.batches.viewed(splits.train, number)
        x = prepared.batches.inputs(viewed)
        with torch.no_grad():
            torch.testing.assert_close(prepared.targets.logits(viewed, x), prepared.teacher.network(x))


def test_a_trial_of_kept_views_learns_and_its_held_out_images_are_plain(cache: Path) -> None:
    weighting = {"kind": "learned", "every": 2, "direction": {"kind": "neumann", "terms": 2}, "evidence": False}
    config = with_settings(digits_trial(augment=ALL[:2], weighting=weighting), KEPT)
    prepared = prepare(config, cache)
    result = run_trial(config, lambda _: None, cache=cache, prepared=prepared)
    assert len({round(x, 9) for row in result.held_mean for x in row}) > 1
    outer = prepared.splits.outer[:8]
    with torch.no_grad():
        plain = prepared.teacher.network(prepared.batches.inputs(outer))
    torch.testing.assert_close(prepared.targets.logits(outer, torch.empty(0)), plain)


@pytest.mark.parametrize("augment, features, words", [
    ((), "auto", "augment is empty"),
    (("flip", "mixup"), "auto", "mixes the images of a batch"),
    (({"name": "CutMix"},), "auto", "CutMix, which mixes the images of a batch"),
    (("flip",), "online", "teacher.features is online"),
])  # fmt: skip
def test_views_that_cannot_be_kept_are_refused(cache: Path, augment: tuple[object, ...], features: str, words: str) -> None:
    config = with_settings(digits_trial(augment=augment), {**KEPT, "teacher.features": features})
    with pytest.raises(ConfigError, match=f"teacher.cached_views is 2.*{words}") as told:
        prepare(config, cache)
    assert "\n" not in str(told.value)


# ---- how much is kept


def test_features_that_take_too_much_are_read_on_line_and_a_line_says_so(cache: Path) -> None:
    small, told = with_settings(digits_trial(), {"teacher.cache_gb": 1e-6}), list[str]()
    assert isinstance(prepare(small, cache, told.append).targets, TeacherReader)
    (line,) = (words for words in told if "cache_gb" in words)
    assert "240 training images" in line and "teacher.cache_gb: 1e-06" in line
    assert line.endswith("are read on line")
    with pytest.raises(ConfigError, match=r"teacher.cache_gb: 1e-06.*bfloat16"):
        prepare(with_settings(small, {"teacher.features": "cached"}), cache)


def test_a_trial_with_features_in_bfloat16_is_close_to_that_with_float32(cache: Path, prepared: Prepared) -> None:
    half = with_settings(digits_trial(), {"teacher.cache_precision": "bfloat16"})
    stored = run_trial(digits_trial(), lambda _: None, cache=cache, prepared=prepared)
    found = run_trial(half, lambda _: None, cache=cache)
    torch.testing.assert_close(torch.tensor(found.held_mean), torch.tensor(stored.held_mean), rtol=0.05, atol=0.01)
    assert found.last.metrics["train/loss"] == pytest.approx(stored.last.metrics["train/loss"], rel=0.02)
