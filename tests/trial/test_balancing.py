"""The exact norms of gradients that the balance is shown, against autograd and the optimiser's metric written out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from kd_hpo.core.balance import GradientBalance
from kd_hpo.data.batches import shuffled_batches
from kd_hpo.trial.balancing import measure_balance, squared_norms
from kd_hpo.trial.passes import buffers_of
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.state import Trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

BY = {
    "sgd": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
    "adam": {"kind": "adam", "lr": 0.003},
    "adamw": {"kind": "adamw", "lr": 0.003},
}


def metric(trial: Trial) -> dict[str, torch.Tensor | float]:
    """By what a gradient is multiplied: under Adam 1 / (root of v + eps), v with what the next gradient adds to it on average."""
    kept: dict[str, dict[str, Any]] = {name: trial.optimizer.state[p] for name, p in trial.parameters.items()}
    if "exp_avg_sq" not in next(iter(kept.values())):
        return dict.fromkeys(kept, 1.0)
    (group,) = trial.optimizer.param_groups
    b2 = group["betas"][1]
    v = {name: state["exp_avg_sq"] / (1 - b2 ** int(state["step"])) for name, state in kept.items()}
    size = torch.cat([each.flatten() for each in v.values()]).mean().sqrt()
    return {name: size / ((each + (1 - b2) * each.mean()).sqrt() + group["eps"]) for name, each in v.items()}


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("kind", "loss"), [*((kind, "gaussian") for kind in BY), ("adam", "review")])
def test_norms_are_those_of_each_gradient_alone_in_the_optimisers_metric(cache: Path, kind: str, loss: str) -> None:
    """A pair of the loss `review` has a gradient through all deeper layers too."""
    config = digits_trial(
        training={"epochs": 2, "batch_size": 32, "optimizer": BY[kind]},
        weighting={"kind": "uniform"},
        pairs={"logits": "inside", "loss": {"kind": loss}},
    )
    prepared = prepare(config, cache)
    trial = start_trial(config, prepared)
    *first, batch = list(shuffled_batches(prepared.splits.train, 32, 0))[:3]
    for each in first:
        train_step(trial, each)
    due = trial.schedule.at(trial.step)
    seen, pairs = trial.see(batch, due, remembers=False), trial.pairs
    assert pairs is not None and isinstance(pairs.balance, GradientBalance) and seen.targets is not None
    task, found, turn = squared_norms(trial, seen, pairs.balance, None)

    gains = metric(trial)
    w = {name: p.detach().clone().requires_grad_() for name, p in trial.parameters.items()}
    output, features = functional_call(trial.student, {**w, **buffers_of(trial)}, (seen.view.x,))
    matrix = pairs.losses([*features], seen.targets)

    def norm(loss: torch.Tensor) -> float:
        gradients = torch.autograd.grad(loss, list(w.values()), retain_graph=True, allow_unused=True)
        parts = zip(w, gradients, strict=True)
        return sum(float((g * gains[name]).square().sum()) for name, g in parts if g is not None)

    assert float(task) == pytest.approx(norm(torch.nn.functional.cross_entropy(output, seen.view.labels)), rel=1e-9)
    assert turn.any()
    for t, s in turn.nonzero().tolist():
        assert float(found[t, s]) == pytest.approx(norm(matrix[t, s]), rel=1e-9), (t, s)
    assert not found[~turn].any()


def test_a_measure_leaves_the_student_the_chance_and_the_statistics_as_they_were(cache: Path) -> None:
    student = {"network": {"name": "tests.trial.own:with_dropout"}, "layers": "auto"}
    config = digits_trial(student=student, weighting={"kind": "uniform"})
    prepared = prepare(config, cache)
    trial = start_trial(config, prepared)
    batch = prepared.splits.train[:32]
    due = trial.schedule.at(trial.step)
    seen = trial.see(batch, due, remembers=False)
    before = {name: value.clone() for name, value in trial.student.network.state_dict().items()}
    chance = torch.get_rng_state()
    measure_balance(trial, seen, due)
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(value, before[name]) for name, value in trial.student.network.state_dict().items())
    assert all(p.grad is None for p in trial.parameters.values())
