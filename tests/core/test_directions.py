"""The directions against plain loops; `update_jacobian` is tested in test_one_step.py, against autograd."""

import math

import pytest
import torch

from kd_hpo.core.directions import DIRECTIONS, DiagonalFisher, GradientFlow, InnerStep, OneStep
from kd_hpo.core.params import Params
from kd_hpo.errors import Diverged


def gradients(steps: int) -> list[Params]:
    generator = torch.Generator().manual_seed(0)
    size = {"conv.weight": (3, 2, 1, 1), "conv.bias": (3,)}
    return [{n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in size.items()} for _ in range(steps)]


def no_jacobian() -> Params:
    raise AssertionError("the direction does not need the step's Jacobian")


def no_hessian(v: Params, number: int) -> Params:
    raise AssertionError("the direction does not need the Hessian")


NOTHING = InnerStep(no_jacobian, no_hessian)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_diagonal_fisher_matches_a_plain_loop(steps: int) -> None:
    decay, damping = 0.8, 1e-2
    seen, outer = gradients(steps), gradients(steps + 1)[-1]
    fisher = DiagonalFisher(decay, damping)
    for gradient in seen:
        fisher.observe(gradient)
    q = fisher(outer, NOTHING)
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
    fisher.observe({"w": torch.tensor([0.0, 3.0])})
    # After one step the bias-corrected mean square is the square itself: g / (0 + 0.5) and g / (9 + 0.5).
    torch.testing.assert_close(fisher({"w": torch.ones(2)}, NOTHING)["w"], torch.tensor([2.0, 1 / 9.5]))


def test_diagonal_fisher_resumes_from_its_state() -> None:
    *seen, later, outer = gradients(5)
    fisher = DiagonalFisher(0.8, 1e-2)
    for gradient in seen:
        fisher.observe(gradient)
    resumed = DiagonalFisher(0.8, 1e-2)
    resumed.load_state_dict(fisher.state_dict())
    for one in (fisher, resumed):
        one.observe(later)
    for name, expected in fisher(outer, NOTHING).items():
        assert torch.equal(resumed(outer, NOTHING)[name], expected)


def test_one_step_multiplies_by_the_jacobian() -> None:
    outer, jacobian = gradients(2)
    q = OneStep()(outer, InnerStep(lambda: jacobian, no_hessian))
    for name in outer:
        torch.testing.assert_close(q[name], jacobian[name] * outer[name], rtol=1e-12, atol=0)


def test_gradient_flow_is_the_outer_gradient_before_the_step() -> None:
    (outer,) = gradients(1)
    q = GradientFlow()(outer, NOTHING)
    assert not GradientFlow.after_step
    for name, g in outer.items():
        assert torch.equal(q[name], g)
        assert q[name] is not g


def test_a_series_that_leaves_the_finite_numbers_is_told() -> None:
    (outer,) = gradients(1)
    steep = InnerStep(no_jacobian, lambda v, number: {name: 1e200 * value for name, value in v.items()})
    with pytest.raises(Diverged, match=r"curvature is too high .* smaller step \(neumann\)"):
        DIRECTIONS["neumann"](terms=3, step=0.1)(outer, steep)
