"""Optimisers and schedules of the settings' names."""

import importlib.util
import math
from io import BytesIO
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from kd_hpo.config import training as settings
from kd_hpo.config.training import Training
from kd_hpo.core.updates import OPTIMIZERS
from kd_hpo.errors import ConfigError
from kd_hpo.trial.optimizers import build_optimizer, build_schedule, clip_gradients, parameter_groups, require_rates

DECAY = "weight_decay"
timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


class Small(nn.Module):
    """A layer, a norm, and a parameter that it wants to keep from decay."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.position = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Parameter(torch.ones(2, 2))

    def no_weight_decay(self) -> set[str]:
        return {"position"}


def recipe(epochs: int = 10, **changes: Any) -> Training:
    return Training.model_validate({"epochs": epochs, **changes})


@pytest.mark.parametrize(
    ("config", "kind", "given"),
    [
        (
            settings.Sgd(lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.01),
            SGD,
            ("lr", "momentum", "nesterov", "weight_decay"),
        ),
        (settings.Adam(lr=0.3, weight_decay=0.01), Adam, ("lr", DECAY)),
        (settings.AdamW(lr=0.3, weight_decay=0.01), AdamW, ("lr", DECAY)),
    ],
)
def test_every_setting_reaches_the_optimiser(
    config: settings.Sgd | settings.Adam | settings.AdamW, kind: type, given: tuple[str, ...]
) -> None:
    optimizer = build_optimizer(recipe(optimizer=config.model_dump()), Small())
    assert type(optimizer) is kind and kind in OPTIMIZERS  # which lambda's learning can go back through
    (group,) = optimizer.param_groups
    assert {name: group[name] for name in given} == {name: getattr(config, name) for name in given}


@pytest.mark.parametrize(("given", "name", "group"), [
    ({"kind": "torch", "name": "RMSprop", "lr": 0.3, "arguments": {"alpha": 0.8}}, "RMSprop", {"lr": 0.3, "alpha": 0.8}),
    pytest.param({"kind": "timm", "name": "lamb", "lr": 0.3, "weight_decay": 0.1}, "Lamb", {"lr": 0.3, DECAY: 0.1}, marks=timm),
    pytest.param({"kind": "timm", "name": "lion", "arguments": {"betas": [0.9, 0.5]}}, "Lion", {"lr": 1e-3}, marks=timm),
])  # fmt: skip
def test_optimisers_of_libraries_by_name(given: dict[str, Any], name: str, group: dict[str, float]) -> None:
    optimizer = build_optimizer(recipe(optimizer=given), Small())
    assert type(optimizer).__name__ == name
    assert group.items() <= optimizer.param_groups[0].items()


@pytest.mark.parametrize(("given", "words"), [
    ({"kind": "torch", "name": "RMSProp"}, "did you mean RMSprop"),
    ({"kind": "torch", "name": "RMSprop", "arguments": {"beta": 1}}, "beta"),
    pytest.param({"kind": "timm", "name": "lamp"}, "did you mean lamb", marks=timm),
])  # fmt: skip
def test_what_a_library_does_not_have_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_optimizer(recipe(optimizer=given), Small())


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_hpo.trial.optimizers.timm_is_installed", lambda: False)
    with pytest.raises(ConfigError, match="timm/lion needs timm"):
        build_optimizer(recipe(optimizer={"kind": "timm", "name": "lion"}), Small())


def test_decay_of_matrices_leaves_vectors_and_what_the_network_names_alone() -> None:
    network = Small()
    groups = parameter_groups(recipe(decayed="matrices"), network)
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, others = ({names[id(p)] for p in group["params"]} for group in groups)
    assert (decayed, others) == ({"fc.weight"}, {"fc.bias", "norm.weight", "norm.bias", "position"})
    optimizer = build_optimizer(recipe(decayed="matrices", optimizer={"kind": "adamw", "lr": 0.5, DECAY: 0.25}), network)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer.step()
    for name, p in network.named_parameters():  # AdamW: w (1 - lr decay), without a gradient
        assert torch.equal(p, before[name] * (1 - 0.5 * 0.25) if name == "fc.weight" else before[name])


def test_gradients_are_cut_together() -> None:
    network = Small()
    for p in network.parameters():
        p.grad = torch.full_like(p, 2.0)
    count = sum(p.numel() for p in network.parameters())
    clip_gradients(recipe(clip_norm=100.0), network)
    assert all((p.grad == 2.0).all() for p in network.parameters())
    clip_gradients(recipe(clip_norm=1.0), network)
    for p in network.parameters():  # 2 / |2, 2, ...| each
        torch.testing.assert_close(p.grad, torch.full_like(p, 1 / count**0.5))


def rates(schedule: Any, steps: int, epochs: int = 10, stop: int | None = None) -> list[float]:
    """The rates of all steps; with a stop, those after it are of another one that goes on from its state."""
    training = recipe(epochs, lr_schedule=schedule, optimizer={"kind": "sgd", "lr": 0.4})
    network, found = Small(), list[float]()
    optimizer = build_optimizer(training, network)
    schedule = build_schedule(training, optimizer, steps)
    for step in range(steps):
        if step == stop:
            kept = BytesIO()
            torch.save((optimizer.state_dict(), schedule.state_dict()), kept)
            kept.seek(0)
            optimizer = build_optimizer(training, network)
            schedule = build_schedule(training, optimizer, steps)
            for part, state in zip((optimizer, schedule), torch.load(kept, weights_only=True), strict=True):
                part.load_state_dict(state)
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(found) < steps else None
    return found


def test_schedules_end_where_they_should() -> None:
    assert rates("constant", 5) == [0.4] * 5
    cosine = rates("cosine", 8)
    # Half a cosine of 8 steps: 0.4 (1 + cos(pi k / 8)) / 2, so the half of it at step 4.
    assert cosine[0] == 0.4 and cosine[4] == pytest.approx(0.2) and cosine == sorted(cosine, reverse=True)
    cycle = rates("one_cycle", 40)
    assert max(cycle) == pytest.approx(0.4, rel=0.01) and cycle[0] == pytest.approx(0.4 / 25) and cycle[-1] < 1e-4
    assert cycle.index(max(cycle)) in range(10, 14)  # 0.3 of the way


def test_multi_step_is_multiplied_after_its_epochs() -> None:
    steps = {"kind": "multi_step", "milestones": [5, 0.8]}  # after 5 and 8 of 10 epochs, of 3 steps each
    assert rates(steps, 30) == pytest.approx([0.4] * 15 + [0.04] * 9 + [0.004] * 6)


def test_a_warmup_rises_to_the_rate_and_the_rest_follows() -> None:
    steps = rates({"kind": "multi_step", "milestones": [5], "warmup": 1}, 30)
    assert steps == pytest.approx([0.1, 0.2, 0.3] + [0.4] * 12 + [0.04] * 15)
    cosine = rates({"kind": "cosine", "warmup": 0.2, "floor": 0.1}, 30)
    assert cosine[:7] == pytest.approx([0.4 * k / 7 for k in range(1, 8)])
    # 24 steps from .4 to the floor .1: .1 + .3 (1 + cos(pi k / 24)) / 2
    assert cosine[6:] == pytest.approx([0.1 + 0.15 * (1 + math.cos(math.pi * k / 24)) for k in range(24)])
    assert rates({"kind": "constant", "warmup": 1}, 30) == pytest.approx([0.1, 0.2, 0.3] + [0.4] * 27)


def test_one_cycle_has_settings_of_its_own() -> None:
    cycle = rates({"kind": "one_cycle", "rise": 0.5, "start": 10, "end": 100}, 41)
    assert cycle[0] == pytest.approx(0.04) and cycle[-1] == pytest.approx(0.0004) and cycle.index(max(cycle)) in (19, 20)
    assert rates({"kind": "one_cycle"}, 41) == rates("one_cycle", 41)


BY_NAME = [
    {"kind": "torch", "name": "StepLR", "arguments": {"step_size": 3, "gamma": 0.5}},
    {"kind": "torch", "name": "CosineAnnealingWarmRestarts", "arguments": {"T_0": 4}},
    {"kind": "torch", "name": "PolynomialLR", "arguments": {"total_iters": 30, "power": 2.0}, "each": "step"},
    {"kind": "torch", "name": "CyclicLR", "arguments": {"base_lr": 0.1, "max_lr": 0.4, "step_size_up": 5}, "each": "step"},
    {"kind": "torch", "name": "MultiStepLR", "arguments": {"milestones": [2, 4]}},
    {"kind": "torch", "name": "ExponentialLR", "arguments": {"gamma": 0.9}},
]


@pytest.mark.parametrize("schedule", [
    *BY_NAME,
    {"kind": "multi_step", "milestones": [5, 8], "warmup": 2},
    {"kind": "cosine", "warmup": 2, "floor": 0.01},
    {"kind": "one_cycle", "rise": 0.4},
    {"kind": "constant", "warmup": 3},
])  # fmt: skip
def test_a_schedule_goes_on_from_its_state(schedule: dict[str, Any]) -> None:
    whole = rates(schedule, 30)
    assert len(set(whole)) > 1
    for stop in (4, 6, 17):
        assert rates(schedule, 30, stop=stop) == whole


def test_a_schedule_of_torch_counts_epochs_or_steps() -> None:
    by_epoch = rates(BY_NAME[0], 30)  # halved every 3 epochs of 3 steps
    assert by_epoch == pytest.approx([0.4 * 0.5 ** (k // 9) for k in range(30)])
    by_step = rates({**BY_NAME[0], "each": "step"}, 30)
    assert by_step == pytest.approx([0.4 * 0.5 ** (k // 3) for k in range(30)])


@pytest.mark.parametrize(("schedule", "words"), [
    ({"name": "StepLr", "arguments": {"step_size": 3}}, "did you mean StepLR"),
    ({"name": "StepLR"}, "step_size"),
    ({"name": "OneCycleLR", "arguments": {"max_lr": 0.1, "total_steps": 20}, "each": "step"}, "at step 21 of 30"),
    ({"name": "CyclicLR", "arguments": {"base_lr": -0.1, "max_lr": 0.4}}, "a rate of -0.1 at step 0"),
])  # fmt: skip
def test_a_schedule_that_cannot_be_is_refused_before_the_training(schedule: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        require_rates(recipe(lr_schedule={"kind": "torch", **schedule}, optimizer={"kind": "sgd"}), 30)


def test_one_cycle_leaves_the_momentum_alone() -> None:
    training = recipe(optimizer={"kind": "sgd", "lr": 0.4, "momentum": 0.7})
    optimizer = build_optimizer(training, Small())
    schedule = build_schedule(training, optimizer, 10)
    for _ in range(9):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["momentum"] == 0.7


def test_a_stage_has_the_whole_schedule() -> None:
    found = rates({"kind": "multi_step", "milestones": [5]}, 6)  # 6 steps stand for 10 epochs
    assert [low / high for high, low in pairwise(found)] == pytest.approx([1, 1, 0.1, 1, 1])
