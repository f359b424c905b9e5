"""Assistants between teacher and student: taught in turn, trained once, and then the student's teacher."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kd_hpo.config.load import with_settings
from kd_hpo.config.training import Training
from kd_hpo.config.trial import Assistant, Network, TrialConfig
from kd_hpo.nets.weights import load_weights
from kd_hpo.trial import assistants as module
from kd_hpo.trial.assistants import assistant_trial, taught_by_assistants
from kd_hpo.trial.data import load_data
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial


def assistant(channels: list[int], **changes: object) -> Assistant:
    network = Network(name="plain_conv", arguments={"channels": channels, "hidden": 12, "padding": 1})
    fields = {"network": network, "layers": ("conv1", "fc"), "training": Training(epochs=2, batch_size=32)}
    return Assistant.model_validate(fields | changes)


def chain() -> TrialConfig:
    return digits_trial(assistants=(assistant([6, 12]), assistant([5, 8], weighting={"kind": "same_depth"})))


def taught(config: TrialConfig, cache: Path, progress: Callable[[str], None] = lambda _: None) -> TrialConfig:
    batches, splits = load_data(config, cache, progress)
    return taught_by_assistants(config, batches, splits, cache, progress)


def test_each_is_taught_by_the_one_before_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    last = taught(chain(), tmp_path, told.append)
    assert any("assistant 1 of 2" in line and "epoch 1 of 2" in line for line in told)
    assert "assistant 2 of 2" in told[-1] and "epoch 2 of 2" in told[-1]
    assert last.assistants == ()
    assert last.teacher.network == chain().assistants[1].network
    assert last.teacher.weights is not None
    assert last.student == chain().student

    # The second one again, by hand: its teacher is the first one.
    first = taught(chain().replace(assistants=chain().assistants[:1]), tmp_path)
    second = assistant_trial(first, chain().assistants[1])
    run_trial(second, lambda _: None, cache=tmp_path, folder=tmp_path / "by-hand")
    ours, theirs = (prepare(last, tmp_path).teacher.network for _ in range(2))
    load_weights(theirs, tmp_path / "by-hand" / "last.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))

    monkeypatch.setattr(module, "train_prepared", lambda *_, **__: pytest.fail("trained again"))
    assert taught(chain(), tmp_path, told.append) == last
    assert taught(chain().replace(seed=7), tmp_path).teacher == last.teacher


@pytest.mark.parametrize(("weighting", "change", "acts"), [
    ("none", {"splits": {"train": 240, "outer": 100, "val": 100, "test": 200}}, False),
    ("none", {"pairs": {"strength": 9.0}, "weighting": {"kind": "uniform"}}, False),  # the student's
    ("none", {"teacher.layers": ("conv1",)}, False),
    ("none", {"teacher.features": "online"}, False),
    ("none", {"assistants.0.pairs.strength": 9.0}, False),
    ("none", {"teacher.seed": 1}, True),
    ("none", {"splits.train": 250}, True),
    ("none", {"assistants.0.kd.temperature": 2.0}, True),
    ("same_depth", {"teacher.layers": ("conv1",)}, True),
    ("same_depth", {"assistants.0.pairs.strength": 9.0}, True),
    ("learned", {"splits.outer": 100}, True),
])  # fmt: skip
def test_an_assistant_is_trained_again_only_for_what_acts_on_it(
    cache: Path, weighting: str, change: dict[str, object], acts: bool
) -> None:
    config = digits_trial(assistants=(assistant([6, 12], weighting={"kind": weighting}),))
    files = [taught(each, cache).teacher.weights for each in (config, with_settings(config, change))]
    assert (files[0] != files[1]) == acts


def test_student_learns_from_the_last_one(cache: Path) -> None:
    prepared = prepare(chain(), cache)
    assert [layer.name for layer in prepared.plan.teacher] == ["conv1", "fc"]
    result = run_trial(chain(), lambda _: None, cache=cache)
    assert result.teacher_digest == prepared.teacher_digest != prepare(digits_trial(), cache).teacher_digest
    assert result.config == chain()
