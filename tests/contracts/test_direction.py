"""What every direction q must keep; a new one is a line in DIRECTIONS and a pass of this file."""

from collections.abc import Callable

import pytest
import torch

from kd_hpo.core.directions import DIRECTIONS, Direction, InnerStep
from kd_hpo.core.params import Params

Make = Callable[[], Direction]


@pytest.fixture(params=DIRECTIONS.values(), ids=DIRECTIONS)
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


def params(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in (("a", (2, 3)), ("b", (4,)), ("c", ()))}


def positive_jacobian() -> Params:
    return {name: v.square() + 0.1 for name, v in params(99).items()}


def hessian(v: Params, number: int) -> Params:
    """Diagonal and positive, the same on every batch, and no multiple of the identity."""
    return {name: factor * v[name] for name, factor in positive_jacobian().items()}


STEP = InnerStep(positive_jacobian, hessian)


def after(make: Make, *seeds: int) -> Direction:
    direction = make()
    for seed in seeds:
        direction.observe(params(seed))
    return direction


def test_q_has_the_form_of_the_outer_gradient(make: Make) -> None:
    outer = params(0)
    q = after(make, 1, 2)(outer, STEP)
    assert list(q) == list(outer)
    for name, g in outer.items():
        assert (q[name].shape, q[name].dtype) == (g.shape, g.dtype)
        assert q[name].isfinite().all()


def test_q_is_linear_in_the_outer_gradient(make: Make) -> None:
    direction, one, two = after(make, 1, 2), params(3), params(4)
    together = direction({n: 2 * one[n] - 3 * two[n] for n in one}, STEP)
    first, second = direction(one, STEP), direction(two, STEP)
    for name in one:
        # Conjugate gradient is linear only as far as it has come to the solution.
        torch.testing.assert_close(together[name], 2 * first[name] - 3 * second[name], rtol=1e-6, atol=1e-7)


def test_q_never_turns_against_the_outer_gradient(make: Make) -> None:
    # A push along q of the inner gradient is to lower the outer loss; so it is where the update itself goes downhill.
    outer = params(0)
    for name, v in after(make, 1, 2)(outer, STEP).items():
        assert (v * outer[name] > 0).all()


def test_inputs_are_left_alone(make: Make) -> None:
    seen, outer, direction = params(1), params(0), make()
    direction.observe(seen)
    direction(outer, STEP)
    for name in outer:
        assert torch.equal(seen[name], params(1)[name])
        assert torch.equal(outer[name], params(0)[name])


def test_observed_gradients_are_not_kept_by_reference(make: Make) -> None:
    seen, direction = params(1), make()  # an optimiser reuses the memory of its gradients
    direction.observe(seen)
    expected = direction(params(0), STEP)
    for g in seen.values():
        g.fill_(1e3)
    for name, v in direction(params(0), STEP).items():
        assert torch.equal(v, expected[name])


def test_resumes_from_its_state(make: Make) -> None:
    direction, resumed = after(make, 1, 2), make()
    state = direction.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    resumed.load_state_dict(state)
    for one in (direction, resumed):
        one.observe(params(5))
    expected = direction(params(0), STEP)
    for name, v in resumed(params(0), STEP).items():
        assert torch.equal(v, expected[name])


def test_a_loaded_state_is_a_copy(make: Make) -> None:
    direction, resumed = after(make, 1), make()
    resumed.load_state_dict(direction.state_dict())
    expected = resumed(params(0), STEP)
    direction.observe(params(2))
    for name, v in resumed(params(0), STEP).items():
        assert torch.equal(v, expected[name])
