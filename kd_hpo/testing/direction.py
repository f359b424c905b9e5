"""What every direction q must keep."""

import copy
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.optim import SGD

from kd_hpo.core.directions import Direction, InnerStep
from kd_hpo.core.params import Params
from kd_hpo.core.updates import next_update

MakeDirection = Callable[[], Direction]


def params(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in (("a", (2, 3)), ("b", (4,)), ("c", ()))}


def hessian(w: Params, v: Params, batch: int) -> Params:
    """A Hessian product: the Hessian is diagonal and positive, the same on every batch and at every w, no multiple of I."""
    return {name: (0.1 + 0.1 * size.sigmoid()) * v[name] for name, size in params(99).items()}


def step(seed: int) -> InnerStep:
    """A step of plain SGD, with parameters and a gradient of its own."""
    w = params(100 + seed)
    optimizer = SGD([nn.Parameter(value) for value in w.values()], lr=0.5)
    update = next_update(optimizer, dict(zip(w, optimizer.param_groups[0]["params"], strict=True)))
    return InnerStep(seed, w, torch.ones(()), lambda w: torch.zeros(()), hessian, update, params(seed))


LAST = step(7)


def after(make: MakeDirection, *seeds: int) -> Direction:
    """Makes a direction that has seen some steps and the last one, as far as it wants to."""
    direction = make()
    for taken in (*map(step, seeds), LAST):
        if direction.needs(ahead=0):
            direction.record(taken)
    return direction


def qs(direction: Direction, outer: Params) -> list[Params]:
    return [q for _, q in copy.deepcopy(direction)(outer, LAST)]


class DirectionContract:
    """What the rest of kd_hpo relies on in a direction; kd_hpo.core.directions.Direction says it in words.

    Subclass it in a file of tests and say how the direction is made:

        class TestMyDirection(DirectionContract):
            direction = MyDirection
    """

    direction: ClassVar[MakeDirection]
    """Makes the direction, with settings of your choice; it takes no arguments."""

    @pytest.fixture
    def make(self) -> MakeDirection:
        found: MakeDirection | None = getattr(type(self), "direction", None)
        assert callable(found), f"{type(self).__name__} does not say how its direction is made: add `direction = MyDirection`"
        return found

    def test_q_has_the_form_of_the_outer_gradient(self, make: MakeDirection) -> None:
        outer = params(0)
        shares = after(make, 1, 2)(outer, LAST)
        assert shares, "no step has a share: a hypergradient would be 0"
        for taken, q in shares:
            assert list(q) == list(outer) == list(taken.w), "q is keyed as the outer gradient, and so is the step that it is of"
            for name, g in outer.items():
                assert (q[name].shape, q[name].dtype) == (g.shape, g.dtype), (
                    f"q[{name!r}] has not the outer gradient's shape or type"
                )
                assert taken.w[name].shape == g.shape, f"the step's w[{name!r}] has not the outer gradient's shape"
                assert q[name].isfinite().all(), f"q[{name!r}] is not finite"

    def test_q_is_linear_in_the_outer_gradient(self, make: MakeDirection) -> None:
        direction, one, two = after(make, 1, 2), params(3), params(4)
        together = qs(direction, {n: 2 * one[n] - 3 * two[n] for n in one})
        for q, first, second in zip(together, qs(direction, one), qs(direction, two), strict=True):
            for name in one:
                # Conjugate gradient is linear only as far as it has come to the solution.
                torch.testing.assert_close(
                    q[name],
                    2 * first[name] - 3 * second[name],
                    rtol=1e-6,
                    atol=1e-7,
                    msg=lambda numbers: f"q is not linear in the outer gradient: its length and sign count\n{numbers}",
                )

    def test_q_never_turns_against_the_outer_gradient(self, make: MakeDirection) -> None:
        # A push along q of the inner gradient is to lower the outer loss; so it is where the update itself goes downhill.
        outer = params(0)
        for q in qs(after(make, 1, 2), outer):
            for name, v in q.items():
                assert (v * outer[name] > 0).all(), (
                    "q points against the outer gradient where the curvature is positive: wrong sign?"
                )

    def test_inputs_are_left_alone(self, make: MakeDirection) -> None:
        seen, outer, direction = step(1), params(0), make()
        direction.record(seen)
        direction(outer, LAST) if not direction.needs(ahead=0) else direction(outer, seen)
        for name in outer:
            assert torch.equal(seen.gradient[name], params(1)[name]), "it writes into the step's gradient"
            assert torch.equal(seen.w[name], params(101)[name]), "it writes into the step's parameters"
            assert torch.equal(outer[name], params(0)[name]), "it writes into the outer gradient"

    def test_resumes_at_the_start_of_an_epoch_from_its_state(self, make: MakeDirection) -> None:
        direction, resumed = after(make, 1, 2), make()
        direction.forget_steps()
        state = direction.state_dict()
        assert all(isinstance(value, torch.Tensor) for value in state.values()), "state_dict holds tensors alone"
        resumed.load_state_dict(state)
        resumed.forget_steps()
        for one in (direction, resumed):
            one.record(step(5))
        for q, expected in zip(qs(resumed, params(0)), qs(direction, params(0)), strict=True):
            for name, v in q.items():
                wrong = "a resumed direction gives another q: what it keeps past `forget_steps` belongs in state_dict"
                assert torch.equal(v, expected[name]), wrong

    def test_a_loaded_state_is_a_copy(self, make: MakeDirection) -> None:
        direction, resumed = after(make, 1), make()
        direction.forget_steps()
        resumed.load_state_dict(direction.state_dict())
        before = {name: value.clone() for name, value in resumed.state_dict().items()}
        direction.record(step(2))
        for name, value in resumed.state_dict().items():
            assert torch.equal(value, before[name]), (
                "it shares its state with the one whose state it has loaded: clone the tensors"
            )
