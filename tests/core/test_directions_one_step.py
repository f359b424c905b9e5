"""The one-step hypergradient of a small network, against autograd straight through the optimiser's update."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kd_hpo.core.directions import InnerStep, Unrolled
from kd_hpo.core.hypergradient import central_difference, hypergradient
from kd_hpo.core.pair_losses import PAIR_LOSSES, PairLoss
from kd_hpo.core.params import Params
from kd_hpo.core.plan import PairPlan
from tests.core.bilevel import CASES, PLAN, STUDENT, TEACHER, Case, Update, World


def through_the_update(world: World, update: Update) -> tuple[Params, Tensor]:
    """w' and dL_out/dlam (T, S), by double backward through gradient, update and outer loss."""
    lam = world.lam.clone().requires_grad_()
    w = {name: p.detach().clone().requires_grad_() for name, p in world.w.items()}
    gradients = torch.autograd.grad(world.inner_loss(w, lam), list(w.values()), create_graph=True)
    stepped = {name: update(w[name], g, world.state(name))[0] for name, g in zip(w, gradients, strict=True)}
    (by_lam,) = torch.autograd.grad(world.outer_loss(stepped), lam)
    return {name: p.detach() for name, p in stepped.items()}, by_lam


def the_library_way(world: World) -> tuple[InnerStep, Params]:
    """Takes the real step; gives what it was, and its q."""
    step = world.inner_step()
    world.backward()
    gradient = {name: p.grad.clone() for name, p in world.w.items() if p.grad is not None}
    world.optimizer.step()
    outer = torch.autograd.grad(world.outer_loss(dict(world.w)), list(world.w.values()))
    direction, step = Unrolled(), replace(step, gradient=gradient)
    direction.record(step)
    ((taken, q),) = direction(dict(zip(world.w, outer, strict=True)), step)
    assert taken is step
    return step, q


def of(step: InnerStep, q: Params) -> Tensor:
    return hypergradient(step.pair_losses, step.w, q, step.scale)


@pytest.mark.parametrize("steps", [0, 3], ids=["first_step", "fourth_step"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_autograd_through_the_update(case: Case, steps: int) -> None:
    world = World(case, steps)
    stepped, expected = through_the_update(world, case.update)
    step, q = the_library_way(world)
    for name, p in world.w.items():  # the judge knows the optimiser
        torch.testing.assert_close(p.detach(), stepped[name], rtol=1e-9, atol=1e-12)
    actual = of(step, q)
    assert actual.shape == PLAN.shape
    size = expected.abs().max()
    assert (expected.abs() > 1e-4 * size).all()  # every pair says something, those with weight 0 too
    torch.testing.assert_close(actual / size, expected / size, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES)
def test_matches_autograd_whatever_the_pair_loss(loss: Callable[[], PairLoss]) -> None:
    case = CASES["nesterov"]
    world = World(case, 1, loss())
    _, expected = through_the_update(world, case.update)
    actual = of(*the_library_way(world))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
    for t, teacher in enumerate(TEACHER):
        for s, student in enumerate(STUDENT):
            says_something = bool(expected[t, s].abs() > 1e-10)
            assert says_something == (loss().serves(teacher, student, world.plan.target_size(t, s)) is None or t == s == 2)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_agrees_with_central_difference(name: str) -> None:
    world = World(CASES[name], 3)
    step, q = the_library_way(world)
    length = torch.cat([v.flatten() for v in q.values()]).norm()
    q = {name: v / length for name, v in q.items()}
    actual = of(step, q)
    with torch.no_grad():  # ReLU and max-pool have kinks: a short step keeps clear of them
        expected = central_difference(step.pair_losses, step.w, q, step.scale, epsilon=1e-6)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


def test_running_statistics_do_not_move() -> None:
    world = World(CASES["momentum"], 0)
    world.network(world.x)  # statistics that are not the start's
    step, q = the_library_way(world)
    buffers = copy.deepcopy(dict(world.network.named_buffers()))
    of(step, q)
    assert len(buffers) == 6
    for name, buffer in world.network.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_leaves_weights_and_gradients_alone() -> None:
    world = World(CASES["adam"], 1)
    step, q = the_library_way(world)
    kept = copy.deepcopy([step.w, {name: (p.detach(), p.grad) for name, p in world.w.items()}])
    of(step, q)
    for name, p in world.w.items():
        assert torch.equal(step.w[name], kept[0][name])
        assert torch.equal(p, kept[1][name][0])
        assert torch.equal(p.grad, kept[1][name][1])


def test_plan_meets_at_several_resolutions() -> None:
    """The network's test covers pooled students, pooled teachers and the logits pair."""
    assert isinstance(PLAN, PairPlan)
    assert {(g.student, g.size) for g in PLAN.groups} == {
        (0, (4, 4)), (0, (2, 2)), (0, (1, 1)), (1, (4, 4)), (1, (2, 2)), (1, (1, 1)), (2, (1, 1)),
    }  # fmt: skip
