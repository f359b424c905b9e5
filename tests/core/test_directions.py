"""The directions against plain loops; those that look several steps back are tested in test_unrolled.py."""

import math
from collections.abc import Callable
from typing import NoReturn

import pytest
import torch
from torch.optim import SGD

from kd_hpo.core.directions import DIRECTIONS, DiagonalFisher, GradientFlow, InnerStep
from kd_hpo.core.params import Params
from kd_hpo.core.updates import next_update
from kd_hpo.errors import Diverged


def gradients(steps: int) -> list[Params]:
    generator = torch.Generator().manual_seed(0)
    size = {"conv.weight": (3, 2, 1, 1), "conv.bias": (3,)}
    return [{n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in size.items()} for _ in range(steps)]


def step(gradient: Params, hessian: Callable[[Params, Params, int], Params] | None = None) -> InnerStep:
    """A step of which only its gradient may be looked at, and its Hessian where there is one."""

    def none(*_: object) -> NoReturn:
        raise AssertionError("the direction does not need it")

    update = next_update(SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1), {})
    return InnerStep(0, {}, torch.ones(()), none, hessian or none, update, gradient)


NOTHING = step({})


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_diagonal_fisher_matches_a_plain_loop(steps: int) -> None:
    decay, damping = 0.8, 1e-2
    seen, outer = gradients(steps), gradients(steps + 1)[-1]
    fisher = DiagonalFisher(decay, damping)
    for gradient in seen:
        fisher.record(step(gradient))
    ((_, q),) = fisher(outer, NOTHING)
    for name, g in outer.items():
        for position in range(g.numel()):
            # A weighted mean of the squares, the newest with weight 1, the one before with decay, and so on.
            weights = [decay ** (steps - 1 - k) for k in range(steps)]
            squares = [float(s[name].flatten()[position]) ** 2 for s in seen]
            mean_square = math.fsum(w * x for w, x in zip(weights, squares, strict=True)) / math.fsum(weights)
            expected = float(g.flatten()[position]) / (mean_square + damping)
            assert float(q[name].flatten()[position]) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_diagonal_fisher_looks_further_where_the_loss_is_flat() -> None:
    fisher = DiagonalFisher(0.98, damping=0.5)
    fisher.record(step({"w": torch.tensor([0.0, 3.0])}))
    # After one step the bias-corrected mean square is the square itself: g / (0 + 0.5) and g / (9 + 0.5).
    ((_, q),) = fisher({"w": torch.ones(2)}, NOTHING)
    torch.testing.assert_close(q["w"], torch.tensor([2.0, 1 / 9.5]))


def test_diagonal_fisher_resumes_from_its_state() -> None:
    *seen, later, outer = gradients(5)
    fisher = DiagonalFisher(0.8, 1e-2)
    for gradient in seen:
        fisher.record(step(gradient))
    resumed = DiagonalFisher(0.8, 1e-2)
    resumed.load_state_dict(fisher.state_dict())
    for one in (fisher, resumed):
        one.record(step(later))
    ((_, expected),), ((_, q),) = fisher(outer, NOTHING), resumed(outer, NOTHING)
    for name, value in expected.items():
        assert torch.equal(q[name], value)


def test_gradient_flow_is_the_outer_gradient_before_the_step() -> None:
    (outer,) = gradients(1)
    ((_, q),) = GradientFlow()(outer, NOTHING)
    assert not GradientFlow.after_step
    for name, g in outer.items():
        assert torch.equal(q[name], g)


def test_a_series_that_leaves_the_finite_numbers_is_told() -> None:
    (outer,) = gradients(1)
    steep = step({}, lambda w, v, batch: {name: 1e200 * value for name, value in v.items()})
    with pytest.raises(Diverged, match="not finite"):
        DIRECTIONS["neumann"](terms=3, step=0.1)(outer, steep)
