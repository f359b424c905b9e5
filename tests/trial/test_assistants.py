"""Assistants between teacher and student: taught in turn, trained once, and then the student's teacher."""

from pathlib import Path

import pytest
import torch

from kd_hpo.config.trial import Assistant, Network, Training, TrialConfig
from kd_hpo.nets.weights import load_weights
from kd_hpo.trial import assistants as module
from kd_hpo.trial.assistants import assistant_trial, taught_by_assistants
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial


def assistant(channels: list[int], **changes: object) -> Assistant:
    network = Network(name="plain_conv", arguments={"channels": channels, "hidden": 12, "padding": 1})
    fields = {"network": network, "layers": ("conv1", "fc"), "training": Training(epochs=2, batch_size=32)}
    return Assistant.model_validate(fields | changes)


def chain() -> TrialConfig:
    return digits_trial(assistants=(assistant([6, 12]), assistant([5, 8], weighting={"kind": "same_depth"})))


def test_each_is_taught_by_the_one_before_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    last = taught_by_assistants(chain(), "digest", tmp_path, told.append)
    assert "training assistant 1 of 2: epoch 1 of 2" in told
    assert told[-1] == "training assistant 2 of 2: epoch 2 of 2"
    assert last.assistants == ()
    assert last.teacher.network == chain().assistants[1].network
    assert last.teacher.weights is not None
    assert last.student == chain().student

    # The second one again, by hand: its teacher is the first one.
    first = taught_by_assistants(chain().replace(assistants=chain().assistants[:1]), "digest", tmp_path, told.append)
    second = assistant_trial(first, chain().assistants[1])
    run_trial(second, lambda _: None, cache=tmp_path, folder=tmp_path / "by-hand")
    ours, theirs = (prepare(last, tmp_path).teacher.network for _ in range(2))
    load_weights(theirs, tmp_path / "by-hand" / "last.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))

    monkeypatch.setattr(module, "run_trial", lambda *_, **__: pytest.fail("trained again"))
    assert taught_by_assistants(chain(), "digest", tmp_path, told.append) == last
    assert taught_by_assistants(chain().replace(seed=7), "digest", tmp_path, told.append).teacher == last.teacher


def test_student_learns_from_the_last_one(cache: Path) -> None:
    prepared = prepare(chain(), cache)
    assert [layer.name for layer in prepared.plan.teacher] == ["conv1", "fc"]
    result = run_trial(chain(), lambda _: None, cache=cache)
    assert result.teacher_digest == prepared.teacher_digest != prepare(digits_trial(), cache).teacher_digest
    assert result.config == chain()
