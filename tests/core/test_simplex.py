"""The steps on the simplex against their formulas; what they share is in tests/contracts/test_simplex_update.py."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_hpo.core.simplex import (
    drawn_to,
    mirror_descent,
    mix_with_uniform,
    normalised_direction,
    one_to_one,
    projection,
    softmax_logits,
    strongest,
    uniform,
)

T, S = 3, 2
SEEDS = st.integers(0, 2**31)
STEPS = st.floats(1e-3, 30)


def point_and_direction(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(T, S, dtype=torch.float64).exponential_(generator=generator)
    return weights / weights.sum(), torch.randn(T, S, generator=generator, dtype=torch.float64)


# Updates -------------------------------------------------------------------------------------------------------------------


@given(SEEDS, STEPS)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_mirror_descent_is_its_closed_form(seed: int, step: float) -> None:
    weights, h = point_and_direction(seed)
    rows = [[float(w) * math.exp(-step * float(d)) for w, d in zip(*pair, strict=True)] for pair in zip(weights, h, strict=True)]
    expected = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(mirror_descent(weights, h, step), expected / expected.sum(), rtol=1e-8, atol=1e-12)


def test_mirror_descent_multiplies_by_the_evidence() -> None:
    # A direction of ln 2 on one of two equal weights halves it against the other: (1/2, 1) / (3/2).
    weights = mirror_descent(torch.tensor([[0.5, 0.5]]), torch.tensor([[math.log(2), 0.0]]), 1.0)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 2 / 3]]))


@given(SEEDS, STEPS)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_softmax_logits_is_a_gradient_step_by_autograd(seed: int, step: float) -> None:
    weights, h = point_and_direction(seed)
    logits = (weights.log() + 3).flatten().requires_grad_()  # any logits of these weights: a shift does not count
    outer_loss = (h * torch.softmax(logits, 0).view(T, S)).sum()  # dL/dlam = h
    (gradient,) = torch.autograd.grad(outer_loss, logits)
    expected = torch.softmax(logits.detach() - step * gradient, 0).view(T, S)
    torch.testing.assert_close(softmax_logits(weights, h, step), expected, rtol=1e-8, atol=1e-12)


@given(SEEDS, STEPS)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_projection_is_the_nearest_point(seed: int, step: float) -> None:
    # x is the point of a convex set nearest to p if and only if (p - x)'(y - x) <= 0 for every y of the set; for the
    # simplex the worst y is a vertex.
    weights, h = point_and_direction(seed)
    p = (weights - step * h).flatten()
    x = projection(weights, h, step).flatten()
    assert (x >= 0).all()
    assert float(x.sum()) == pytest.approx(1, abs=1e-9)
    for vertex in torch.eye(T * S, dtype=torch.float64):
        assert float((p - x) @ (vertex - x)) <= 1e-9 * max(1.0, step)


@given(SEEDS, st.floats(0.01, 3))
@settings(deadline=None, max_examples=10, derandomize=True)
def test_projection_by_brute_force(seed: int, step: float) -> None:
    # Two weights: the simplex is a segment, searched on a fine grid.
    full, direction = point_and_direction(seed)
    weights, h = full[:1] / full[:1].sum(), direction[:1]
    first = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    candidates = torch.stack([first, 1 - first], 1)
    nearest = candidates[(candidates - (weights - step * h)).square().sum(1).argmin()]
    torch.testing.assert_close(projection(weights, h, step)[0], nearest, rtol=0, atol=1e-5)


def test_projection_reaches_zero_exactly() -> None:
    # (0.4, 0.3, 0.3) - (0, 0, 0.9): the last falls off, and 0.15 goes to each of the others.
    weights = projection(torch.tensor([[0.4, 0.3, 0.3]]), torch.tensor([[0.0, 0.0, 0.9]]), 1.0)
    torch.testing.assert_close(weights, torch.tensor([[0.55, 0.45, 0.0]]))
    assert weights[0, 2] == 0


def test_small_weights_move_by_evidence_alone_in_mirror_descent() -> None:
    # The log of a weight of 1e-4 moves as far as any other's: the ratio of two pairs of equal evidence is kept. The step on
    # logits is w (h - <w, h>), so there the small weight hardly moves.
    weights, h = torch.tensor([[1e-4, 0.4999, 0.5]], dtype=torch.float64), torch.tensor([[-1.0, -1.0, 1.0]], dtype=torch.float64)
    moved = mirror_descent(weights, h, 1.0)
    assert float(moved[0, 0] / moved[0, 1]) == pytest.approx(1e-4 / 0.4999)
    assert float(softmax_logits(weights, h, 1.0)[0, 0]) < 1.2e-4 < float(moved[0, 0])


# Uniform point -------------------------------------------------------------------------------------------------------------


def test_uniform() -> None:
    assert uniform((2, 4)).tolist() == [[0.125] * 4] * 2


def test_mix_with_uniform_by_hand() -> None:
    weights = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(mix_with_uniform(weights, 0.2), torch.tensor([[0.85, 0.05], [0.05, 0.05]]))
    assert torch.equal(mix_with_uniform(weights, 0), weights)


# Normalised direction ------------------------------------------------------------------------------------------------------


def test_normalised_direction_by_hand() -> None:
    # <w, h> = 0.75 + 0.25 * 3 = 1.5, so centred (-0.5, 1.5), whose mean square is (0.25 + 2.25) / 2 = 1.25.
    actual = normalised_direction(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(actual, torch.tensor([[-0.5, 1.5]]) / math.sqrt(1.25))


@given(SEEDS)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_normalised_direction_is_centred_with_unit_rms(seed: int) -> None:
    weights, h = point_and_direction(seed)
    direction = normalised_direction(h, weights)
    assert float((weights * direction).sum()) == pytest.approx(0, abs=1e-12)
    assert float(direction.square().mean()) == pytest.approx(1, rel=1e-9)
    assert torch.equal(direction.flatten().argsort(), h.flatten().argsort())


@given(SEEDS, st.floats(-12, 12), st.floats(-5, 5), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_normalised_direction_does_not_know_scale_and_level(
    seed: int, magnitude: float, shift: float, dtype: torch.dtype
) -> None:
    weights, h = (v.to(dtype) for v in point_and_direction(seed))
    expected = normalised_direction(h, weights)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(normalised_direction(10**magnitude * h, weights), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(normalised_direction(h + shift, weights), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(normalised_direction(-h, weights), -expected, rtol=tolerance, atol=tolerance)


@given(SEEDS, st.floats(-1e6, 1e6, width=32), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_a_hypergradient_that_is_the_same_for_all_pairs_says_nothing(seed: int, value: float, dtype: torch.dtype) -> None:
    weights, h = (v.to(dtype) for v in point_and_direction(seed))
    assert normalised_direction(torch.full_like(h, value), weights).tolist() == [[0.0] * S] * T


def test_a_hypergradient_that_is_not_a_number_is_not_hidden() -> None:
    # A direction of zero would leave the weights where they are, and the trial would pass for one that learned.
    h = torch.tensor([[1.0, math.nan]])
    assert normalised_direction(h, torch.tensor([[0.5, 0.5]])).isnan().all()


def test_a_step_far_too_long_still_ends_in_the_nearest_corner() -> None:
    weights = projection(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 2.0]]), 1e10)  # 1 is lost beside 1e10
    assert weights.tolist() == [[1.0, 0.0]]


# Drawn to ---------------------------------------------------------------------------------------------------------


@given(SEEDS, st.floats(0, 0.99))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_drawn_to_is_a_geometric_mean(seed: int, share: float) -> None:
    weights, start = point_and_direction(seed)[0], point_and_direction(seed + 1)[0]
    powers = [
        [float(w) ** (1 - share) * float(v) ** share for w, v in zip(*rows, strict=True)]
        for rows in zip(weights, start, strict=True)
    ]
    expected = torch.tensor(powers, dtype=torch.float64)
    torch.testing.assert_close(drawn_to(start, weights, share), expected / expected.sum(), rtol=1e-8, atol=1e-12)


# Strongest ----------------------------------------------------------------------------------------------------------------


def test_strongest_keeps_the_largest_in_their_proportions() -> None:
    weights = torch.tensor([[0.1, 0.4], [0.2, 0.3]])
    torch.testing.assert_close(strongest(weights, 2), torch.tensor([[0, 4 / 7], [0, 3 / 7]]))
    torch.testing.assert_close(strongest(weights, 9), weights)


# One to one ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (1, 3)])
def test_one_to_one_keeps_the_assignment_of_largest_product(shape: tuple[int, int]) -> None:
    for seed in range(10):
        weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        wide = weights if shape[0] <= shape[1] else weights.t()
        assignments = [list(enumerate(columns)) for columns in permutations(range(wide.shape[1]), wide.shape[0])]
        best = max(assignments, key=lambda pairs: math.prod(float(wide[pair]) for pair in pairs))
        expected = torch.zeros_like(wide)
        for pair in best:
            expected[pair] = wide[pair] / sum(wide[p] for p in best)
        torch.testing.assert_close(one_to_one(weights), expected if wide is weights else expected.t(), rtol=1e-12, atol=0)


def test_drawn_to_keeps_a_weight_of_zero() -> None:
    weights = drawn_to(uniform((1, 3)), torch.tensor([[0.0, 0.2, 0.8]]), 0.5)
    assert weights[0, 0] == 0
    assert weights[0, 2] / weights[0, 1] == pytest.approx(2)  # the root of 4
    assert weights.sum() == pytest.approx(1)


def test_one_to_one_gives_nothing_to_a_pair_of_weight_zero() -> None:
    weights = torch.tensor([[0.5, 0.5], [0.0, 0.0]])  # the second teacher layer may teach no one
    assert one_to_one(weights).sort(descending=True).values.tolist() == [[1.0, 0.0], [0.0, 0.0]]
