"""Random views of the training images: the teacher sees the student's, nothing else does, and a resumed trial sees them again."""

from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from kd_hpo.config.load import with_settings
from kd_hpo.core.pair_losses import categorical_kl
from kd_hpo.data.batches import shuffled_batches
from kd_hpo.data.teacher_targets import CachedTargets, TeacherReader
from kd_hpo.errors import ConfigError
from kd_hpo.trial.prepare import Prepared, prepare
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.state import start_trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

ALL = ("flip", "crop", "cutout", "mixup")


def test_features_are_cached_for_plain_images_and_on_line_for_views(cache: Path, prepared: Prepared) -> None:
    assert isinstance(prepared.targets, CachedTargets)
    assert isinstance(prepare(digits_trial(augment=ALL), cache).targets, TeacherReader)
    online = with_settings(digits_trial(), {"teacher.features": "online"})
    assert isinstance(prepare(online, cache).targets, TeacherReader)


def test_cached_features_of_random_views_are_refused(cache: Path) -> None:
    config = with_settings(digits_trial(augment=("flip",)), {"teacher.features": "cached"})
    with pytest.raises(
        ConfigError, match=r"teacher.features is cached.* \(flip\); set teacher.features: online, or augment: \[\]"
    ):
        prepare(config, cache)


def test_on_line_trial_of_plain_images_is_the_cached_one(cache: Path, prepared: Prepared) -> None:
    online = with_settings(digits_trial(), {"teacher.features": "online"})
    stored = run_trial(digits_trial(), lambda _: None, cache=cache, prepared=prepared)
    found = run_trial(online, lambda _: None, cache=cache)
    torch.testing.assert_close(torch.tensor(found.held_mean), torch.tensor(stored.held_mean), rtol=1e-3, atol=1e-4)
    assert found.last.metrics["train/loss"] == pytest.approx(stored.last.metrics["train/loss"], rel=1e-3)


def test_teacher_and_student_see_one_view_and_mixed_labels_are_learned(cache: Path) -> None:
    config = digits_trial(augment=ALL, weighting={"kind": "none"}, kd={"weight": 2.0, "temperature": 3.0})
    prepared = prepare(config, cache)
    trial = start_trial(config, prepared)
    batch = next(iter(shuffled_batches(prepared.splits.train, 32, 0)))
    seen = trial.view(batch)
    assert not torch.equal(seen.x, prepared.batches.inputs(batch))
    logits, _ = functional_call(trial.student, trial.buffers(), (seen.x,))
    with torch.no_grad():
        teacher = prepared.teacher.network(seen.x)
    loss = seen.cross_entropy(logits) + 2.0 * categorical_kl(logits, teacher, 3.0).mean()
    expected = torch.autograd.grad(loss, list(trial.parameters.values()))
    train_step(trial, batch)
    for parameter, gradient in zip(trial.parameters.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_views_differ_from_step_to_step_and_come_again_after_a_resume(cache: Path) -> None:
    config = digits_trial(augment=ALL)
    trial = start_trial(config, prepare(config, cache))
    batch = trial.prepared.splits.train[:8]
    first, again = trial.view(batch).x, trial.view(batch).x
    assert torch.equal(first, again)
    trial.step += 1
    assert not torch.equal(trial.view(batch).x, first)
    other = start_trial(config.replace(seed=1), trial.prepared)
    assert not torch.equal(other.view(batch).x, first)


def test_learned_weights_with_views(cache: Path) -> None:
    weighting = {"kind": "learned", "every": 2, "outer_objective": "task_and_pairs"}
    result = run_trial(digits_trial(augment=ALL, weighting=weighting), lambda _: None, cache=cache)
    assert sum(map(sum, result.held_mean)) == pytest.approx(1, abs=1e-5)
    assert len({round(x, 9) for row in result.held_mean for x in row}) > 1


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_precision_and_memory_format_change_little(cache: Path, prepared: Prepared, settings: dict[str, object]) -> None:
    """The same trial in another number format: close losses, float32 weights and records, another value than float32's."""
    weighting = {"kind": "learned", "every": 2}
    plain = run_trial(digits_trial(weighting=weighting), lambda _: None, cache=cache, prepared=prepared)
    other = run_trial(digits_trial(weighting=weighting, **settings), lambda _: None, cache=cache)
    assert other.last.metrics["train/loss"] == pytest.approx(plain.last.metrics["train/loss"], rel=0.1)
    torch.testing.assert_close(torch.tensor(other.held_mean), torch.tensor(plain.held_mean), rtol=0.3, atol=0.05)
    if "precision" in settings:
        assert other.last.metrics["train/loss"] != plain.last.metrics["train/loss"]
