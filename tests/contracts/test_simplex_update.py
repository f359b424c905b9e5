"""What every step on the simplex must keep; a new one is a line in SIMPLEX_UPDATES and a pass of this file."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_hpo.core.simplex import SIMPLEX_UPDATES, SimplexUpdate

every_update = pytest.mark.parametrize("update", SIMPLEX_UPDATES.values(), ids=SIMPLEX_UPDATES)
many = settings(deadline=None, max_examples=60, derandomize=True)

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5))
SEEDS = st.integers(0, 2**31)
STEPS = st.floats(1e-3, 100)


def point_and_direction(shape: tuple[int, int], seed: int, zeros: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    if zeros:  # all but the first of the upper half
        weights.flatten()[1 : max(1, weights.numel() // 2)] = 0
    return weights / weights.sum(), torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_on_simplex(weights: Tensor, tolerance: float = 1e-9) -> None:
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1, abs=tolerance)


@every_update
@given(SHAPES, SEEDS, STEPS, st.booleans())
@many
def test_stays_on_the_simplex(update: SimplexUpdate, shape: tuple[int, int], seed: int, step: float, zeros: bool) -> None:
    weights, h = point_and_direction(shape, seed, zeros)
    moved = update(weights, h, step)
    assert moved.shape == shape
    assert moved.dtype == weights.dtype
    assert_on_simplex(moved)


@every_update
@given(SEEDS, st.floats(-3, 12))
@many
def test_stays_on_the_simplex_in_single_precision(update: SimplexUpdate, seed: int, magnitude: float) -> None:
    weights, h = (v.float() for v in point_and_direction((4, 3), seed))
    assert_on_simplex(update(weights, h, 10**magnitude), tolerance=1e-5)


@every_update
@given(SHAPES, SEEDS, STEPS)
@many
def test_moves_weight_against_the_direction(update: SimplexUpdate, shape: tuple[int, int], seed: int, step: float) -> None:
    # <w' - w, h> < 0: to first order, the outer loss goes down, whatever the step.
    weights, h = point_and_direction(shape, seed)
    moved = update(weights, h, step)
    if weights.numel() == 1:
        assert moved.tolist() == [[1.0]]
    else:
        assert float(((moved - weights) * h).sum()) < 0


@every_update
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_repeated_steps_find_the_best_corner(update: SimplexUpdate, seed: int) -> None:
    # <lam, h> with a constant h is least at the corner of the least h.
    _, h = point_and_direction((2, 2), seed)
    h = h + (h > h.min())  # a clear winner
    weights = torch.full((2, 2), 0.25, dtype=torch.float64)
    for _ in range(300):
        weights = update(weights, h, 0.3)
    assert float(weights.flatten()[h.argmin()]) > 0.95


@every_update
@given(SHAPES, SEEDS, STEPS, st.floats(-10, 10))
@many
def test_a_constant_in_the_direction_does_not_count(
    update: SimplexUpdate, shape: tuple[int, int], seed: int, step: float, constant: float
) -> None:
    weights, h = point_and_direction(shape, seed)
    torch.testing.assert_close(update(weights, h + constant, step), update(weights, h, step), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(update(weights, torch.full_like(h, constant), step), weights, rtol=1e-8, atol=1e-10)


@every_update
@given(SHAPES, SEEDS, STEPS)
@many
def test_pairs_have_no_order(update: SimplexUpdate, shape: tuple[int, int], seed: int, step: float) -> None:
    weights, h = point_and_direction(shape, seed)
    torch.testing.assert_close(update(weights.t(), h.t(), step), update(weights, h, step).t(), rtol=1e-8, atol=1e-12)
    backwards = update(weights.flip(0), h.flip(0), step).flip(0)
    torch.testing.assert_close(backwards, update(weights, h, step), rtol=1e-8, atol=1e-12)


@every_update
def test_is_a_pure_function(update: SimplexUpdate) -> None:
    weights, h = point_and_direction((3, 2), 0)
    kept = weights.clone(), h.clone()
    first, again = update(weights, h, 0.3), update(weights, h, 0.3)
    assert torch.equal(first, again)
    assert torch.equal(weights, kept[0])
    assert torch.equal(h, kept[1])
    assert not torch.equal(first, weights)


@every_update
def test_without_evidence_nothing_moves(update: SimplexUpdate) -> None:
    weights, _ = point_and_direction((3, 2), 0)
    torch.testing.assert_close(update(weights, torch.zeros_like(weights), 0.3), weights, rtol=1e-12, atol=0)
