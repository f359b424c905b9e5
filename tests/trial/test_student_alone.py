"""What a given teacher has to be better than: its student without it, as the method `ce` trains it, once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kd_hpo.config.methods import METHODS
from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import ConfigError, Diverged, Note
from kd_hpo.trial import student_alone as module
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.student_alone import Alone, require_better_than_student, score_alone
from tests.conftest import digits_trial


@pytest.fixture
def ready(prepared: Prepared, tmp_path: Path) -> Prepared:
    """With a cache in which no student has been trained."""
    return replace(prepared, cache=tmp_path / "cache")


def with_val(prepared: Prepared, value: float) -> Prepared:
    return replace(prepared, teacher=replace(prepared.teacher, val=replace(prepared.teacher.val, value=value)))


def alone(**changes: object) -> TrialConfig:
    return METHODS["ce"].apply(digits_trial(**changes))


def test_the_teacher_has_to_be_better_than_what_ce_comes_to(
    ready: Prepared, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = run_trial(alone(), lambda _: None, cache=cache).last.metrics["val/accuracy"]
    told: list[str] = []
    require_better_than_student(digits_trial(), with_val(ready, reached + 0.01), told.append)
    assert any("about one trial: epoch 4 of 4" in words for words in told)
    assert isinstance(told[-1], Note) and all(f"{value:.4f}" in told[-1] for value in (reached, reached + 0.01))
    (kept,) = ready.cache.glob("student-alone-*")  # its checkpoint is gone
    assert json.loads(kept.read_text()) == [reached, ""]
    monkeypatch.setattr(module, "train_prepared", lambda *_, **__: pytest.fail("trained again"))
    with pytest.raises(ConfigError, match=rf"plain_conv has accuracy {reached:.4f}, .* alone {reached:.4f}: .*accept_weak: true"):
        require_better_than_student(digits_trial(), with_val(ready, reached), told.append)


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"teacher": digits_trial().teacher.replace(seed=3, layers=("conv1",)).model_dump()}, False),
        ({"pairs": {"strength": 9.0}, "kd": {"weight": 3.0}}, False),
        ({"seed": 1}, True),
        ({"training": {"epochs": 3, "batch_size": 32}}, True),
        ({"splits": {"train": 240, "outer": 120, "val": 100, "test": 200}}, True),
    ],
)
def test_it_is_trained_again_only_for_what_acts_on_it(
    ready: Prepared, cache: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], again: bool
) -> None:
    class Trained(Exception):
        """Instead of a training."""

    def trained(*_: object, **__: object) -> None:
        raise Trained

    score_alone(alone(), ready, lambda _: None)
    monkeypatch.setattr(module, "train_prepared", trained)
    other = replace(prepare(alone(**changes), cache), cache=ready.cache)
    if again:
        with pytest.raises(Trained):
            score_alone(alone(**changes), other, lambda _: None)
    else:
        score_alone(alone(**changes), other, lambda _: None)


def test_a_training_that_was_interrupted_goes_on(ready: Prepared, cache: Path) -> None:
    def interrupt(words: str) -> None:
        if "epoch 2" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_alone(alone(), ready, interrupt)
    assert any((ready.cache).glob("student-alone-*/checkpoint.pt"))
    told: list[str] = []
    reached = run_trial(alone(), lambda _: None, cache=cache).last.metrics["val/accuracy"]
    assert score_alone(alone(), ready, told.append) == Alone(reached)


def test_one_whose_student_diverges_is_compared_with_nothing(ready: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(module, "train_prepared", diverges)
    told: list[str] = []
    require_better_than_student(digits_trial(), with_val(ready, 0.0), told.append)
    assert "not compared" in told[-1] and "not finite" in told[-1]
