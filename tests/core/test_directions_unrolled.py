"""Directions that look several steps back, against autograd straight through the whole run, in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kd_hpo.core.directions import Direction, DrMad, HyperDistill, InnerStep, Unrolled
from kd_hpo.core.hypergradient import hypergradient
from kd_hpo.core.params import Params
from tests.core.bilevel import CASES, PLAN, Case, Update, World

STEPS = 4


class Run:
    """So many real steps with the same lambda; what they were, and dL_out/dlambda by autograd through all of them."""

    def __init__(self, case: Case, before: int = 2, steps: int = STEPS) -> None:
        self.world = world = World(case, before)
        self.steps, self.batches = list[InnerStep](), []
        self.start = {name: p.detach().clone() for name, p in world.w.items()}
        self.states = {name: world.state(name) for name in world.w}
        for number in range(steps):
            world.draw()
            self.batches.append((world.x, world.labels, world.targets))
            step = world.inner_step(number)
            world.backward()
            gradient = {name: p.grad.clone() for name, p in world.w.items() if p.grad is not None}
            self.steps.append(replace(step, gradient=gradient))
            world.optimizer.step()
        outer = torch.autograd.grad(world.outer_loss(dict(world.w)), list(world.w.values()))
        self.outer = dict(zip(world.w, outer, strict=True))

    def by_autograd(self, update: Update) -> Tensor:
        """Each lambda is a number of its own in every step: (steps, T, S), whose sum is the hypergradient."""
        lam = self.world.lam.expand(len(self.batches), *PLAN.shape).clone().requires_grad_()
        w = {name: value.clone().requires_grad_() for name, value in self.start.items()}
        states = self.states
        for k, batch in enumerate(self.batches):
            self.world.x, self.world.labels, self.world.targets = batch
            gradients = torch.autograd.grad(self.world.inner_loss(w, lam[k]), list(w.values()), create_graph=True)
            moved = {name: update(w[name], g, states[name]) for name, g in zip(w, gradients, strict=True)}
            w, states = {name: new for name, (new, _) in moved.items()}, {name: state for name, (_, state) in moved.items()}
        for name, p in self.world.w.items():  # the judge knows the optimiser
            torch.testing.assert_close(p.detach(), w[name].detach(), rtol=1e-7, atol=1e-8)
        (by_lam,) = torch.autograd.grad(self.world.outer_loss(w), lam)
        return by_lam

    def by(self, direction: Direction) -> Tensor:
        for step in self.steps:
            if direction.needs(ahead=len(self.steps) - 1 - step.number):
                direction.record(step)
        return total(direction(self.outer, self.steps[-1]))


def total(shares: list[tuple[InnerStep, Params]]) -> Tensor:
    return torch.stack([hypergradient(step.pair_losses, step.w, q, step.scale) for step, q in shares]).sum(0)


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


def assert_same(actual: Tensor, expected: Tensor) -> None:
    size = expected.abs().max()
    torch.testing.assert_close(actual / size, expected / size, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("before", [0, 3], ids=["from_the_start", "later"])
def test_unrolled_is_exact_through_all_steps(case: Case, before: int) -> None:
    run = Run(case, before)
    by_step = run.by_autograd(case.update)
    assert_same(run.by(Unrolled(STEPS)), by_step.sum(0))
    one = by_step[-1]
    assert (by_step.sum(0) - one).abs().max() > 0.1 * one.abs().max()  # earlier steps do count


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_shorter_horizon_is_exact_for_the_last_steps(case: Case, steps: int) -> None:
    run = Run(case)
    assert_same(run.by(Unrolled(steps)), run.by_autograd(case.update)[-steps:].sum(0))


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_decay_discounts_each_step_by_those_after_it(case: Case, decay: float) -> None:
    run = Run(case)
    discount = decay ** torch.arange(STEPS - 1, -1, -1, dtype=torch.float64).view(-1, 1, 1)
    assert_same(run.by(Unrolled(STEPS, decay)), (discount * run.by_autograd(case.update)).sum(0))


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_drmad_is_exact_where_the_last_steps_are_two(name: str) -> None:
    run = Run(CASES[name], steps=2)  # a line through two points goes through all
    assert_same(run.by(DrMad(2)), run.by_autograd(CASES[name].update).sum(0))


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_drmad_is_exact_on_a_straight_way_and_near_on_a_real_one(name: str) -> None:
    run = Run(CASES[name])
    exact = run.by(Unrolled(STEPS))
    start, end = run.steps[0].w, run.steps[-1].w
    near = run.by(DrMad(STEPS))
    assert torch.cosine_similarity(near.flatten(), exact.flatten(), 0) > 0.9
    run.steps = [
        replace(step, w={n: torch.lerp(start[n], end[n], k / (STEPS - 1)) for n in start}) for k, step in enumerate(run.steps)
    ]
    assert_same(run.by(DrMad(STEPS)), run.by(Unrolled(STEPS)))
    assert_same(near, run.by(DrMad(STEPS)))


def test_drmad_keeps_one_copy_of_the_student() -> None:
    run, direction = Run(CASES["nesterov"]), DrMad(STEPS)
    for step in run.steps:
        direction.record(step)
    assert [bool(step.w) for step in direction.seen] == [True, False, False, False]
    assert not any(step.gradient or step.update.state for step in direction.seen)


@pytest.mark.parametrize("direction", [Unrolled(STEPS), DrMad(STEPS)])
def test_steps_that_led_to_no_update_do_not_count(direction: Direction) -> None:
    run = Run(CASES["nesterov"])
    expected = run.by(direction)
    for step in [*run.steps, *run.steps]:  # before lambda is learned
        direction.record(step)
    torch.testing.assert_close(run.by(direction), expected, rtol=1e-12, atol=0)


def test_hyperdistill_keeps_the_mean_of_the_steps_and_the_batch_of_one() -> None:
    run, decay = Run(CASES["nesterov"]), 0.8
    direction = HyperDistill(decay)
    for step in run.steps:
        direction.record(step)
    ((distilled, q),) = direction(run.outer, run.steps[-1])
    weights = [decay ** (STEPS - 1 - k) for k in range(STEPS)]
    for name, mean in distilled.w.items():
        expected = sum(c * step.w[name] for c, step in zip(weights, run.steps, strict=True)) / sum(weights)
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-14)
    assert any(distilled.pair_losses is step.pair_losses for step in run.steps)
    for name, g in run.outer.items():  # Nesterov's step: lr (1 + momentum)
        torch.testing.assert_close(q[name], 0.1 * 1.8 * g, rtol=1e-12, atol=0)


def test_hyperdistill_draws_each_step_as_often_as_it_weighs() -> None:
    step, decay, runs = Run(CASES["sgd"], steps=1).steps[0], 0.6, 3000
    drawn = torch.zeros(3)
    for r in range(runs):
        direction = HyperDistill(decay)
        for k in range(3):
            direction.record(replace(step, number=3 * r + k, scale=torch.tensor(float(k))))
        assert direction.distilled is not None
        drawn[int(direction.distilled.scale)] += 1 / runs
    expected = torch.tensor([decay**2, decay, 1.0]) / (1 + decay + decay**2)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=0.04)  # over four standard errors


@pytest.mark.parametrize("direction", [Unrolled(STEPS), DrMad(STEPS), HyperDistill()])
def test_what_was_seen_can_be_forgotten(direction: Direction) -> None:
    run = Run(CASES["nesterov"])
    expected = run.by(direction)
    direction.forget_steps()
    for step in run.steps[:2]:
        direction.record(step)
    direction.forget_steps()
    torch.testing.assert_close(run.by(direction), expected, rtol=1e-12, atol=0)
