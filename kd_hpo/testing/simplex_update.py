"""What every step on the simplex must keep."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from kd_hpo.core.simplex import SimplexUpdate

SHAPES = [(1, 1), (1, 4), (5, 1), (2, 2), (3, 2), (5, 5)]
STEPS = [1e-3, 0.03, 1.0, 10.0, 100.0]
SEEDS = range(4)

of_shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
of_steps = pytest.mark.parametrize("step", STEPS)


def point_and_direction(shape: tuple[int, int], seed: int, zeros: bool = False) -> tuple[Tensor, Tensor]:
    """Weights on the simplex and a hypergradient, both (T, S)."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
    if zeros:  # all but the first of the upper half
        weights.flatten()[1 : max(1, weights.numel() // 2)] = 0
    return weights / weights.sum(), torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_on_simplex(weights: Tensor, tolerance: float = 1e-9) -> None:
    assert weights.isfinite().all(), "a weight is not finite"
    assert (weights >= 0).all(), "a weight is negative"
    assert float(weights.sum()) == pytest.approx(1, abs=tolerance), "the weights do not sum to 1"


def assert_close(actual: Tensor, expected: Tensor, wrong: str, rtol: float = 1e-8, atol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda numbers: f"{wrong}\n{numbers}")


class SimplexUpdateContract:
    """What the rest of kd_hpo relies on in a step on the simplex, (weights, direction, step) -> weights.

    Subclass it in a file of tests and name the function:

        class TestMyUpdate(SimplexUpdateContract):
            update = my_update
    """

    update: ClassVar[SimplexUpdate]

    @pytest.fixture
    def move(self) -> SimplexUpdate:
        found: SimplexUpdate | None = getattr(type(self), "update", None)
        assert callable(found), f"{type(self).__name__} does not name its update: add the line `update = my_update` to it"
        return found

    @of_shapes
    @of_steps
    @pytest.mark.parametrize("zeros", [False, True], ids=["inside", "with_zeros"])
    def test_stays_on_the_simplex(self, move: SimplexUpdate, shape: tuple[int, int], step: float, zeros: bool) -> None:
        for seed in SEEDS:
            weights, h = point_and_direction(shape, seed, zeros)
            moved = move(weights, h, step)
            assert moved.shape == shape, "the shape has changed"
            assert moved.dtype == weights.dtype, "the type has changed"
            assert_on_simplex(moved)

    @pytest.mark.parametrize("magnitude", [-3, 0, 3, 6, 9, 12])
    def test_stays_on_the_simplex_in_single_precision(self, move: SimplexUpdate, magnitude: int) -> None:
        for seed in SEEDS:
            weights, h = (v.float() for v in point_and_direction((4, 3), seed))
            assert_on_simplex(move(weights, h, 10.0**magnitude), tolerance=1e-5)

    @of_shapes
    @of_steps
    def test_moves_weight_against_the_direction(self, move: SimplexUpdate, shape: tuple[int, int], step: float) -> None:
        # <w' - w, h> < 0: to first order, the outer loss goes down, whatever the step.
        for seed in SEEDS:
            weights, h = point_and_direction(shape, seed)
            moved = move(weights, h, step)
            if weights.numel() == 1:
                assert moved.tolist() == [[1.0]], "a single pair has all the weight"
            else:
                assert float(((moved - weights) * h).sum()) < 0, "weight has moved along the hypergradient: wrong sign?"

    @pytest.mark.parametrize("seed", SEEDS)
    def test_repeated_steps_find_the_best_corner(self, move: SimplexUpdate, seed: int) -> None:
        # <lam, h> with a constant h is least at the corner of the least h.
        _, h = point_and_direction((2, 2), seed)
        h = h + (h > h.min())  # a clear winner
        weights = torch.full((2, 2), 0.25, dtype=torch.float64)
        for _ in range(300):
            weights = move(weights, h, 0.3)
        assert float(weights.flatten()[h.argmin()]) > 0.95, "300 steps of 0.3 have not found the pair of the least hypergradient"

    @of_shapes
    @of_steps
    def test_a_constant_in_the_direction_does_not_count(self, move: SimplexUpdate, shape: tuple[int, int], step: float) -> None:
        for seed, constant in zip(SEEDS, (-10.0, -0.3, 2.0, 10.0), strict=True):
            weights, h = point_and_direction(shape, seed)
            wrong = "a hypergradient that is higher by the same for all pairs moves the weights elsewhere"
            assert_close(move(weights, h + constant, step), move(weights, h, step), wrong)
            wrong = "a hypergradient that is the same for all pairs moves the weights"
            assert_close(move(weights, torch.full_like(h, constant), step), weights, wrong)

    @of_shapes
    @of_steps
    def test_pairs_have_no_order(self, move: SimplexUpdate, shape: tuple[int, int], step: float) -> None:
        for seed in SEEDS:
            weights, h = point_and_direction(shape, seed)
            wrong = "it matters where in the matrix a pair stands"
            assert_close(move(weights.t(), h.t(), step), move(weights, h, step).t(), wrong, atol=1e-12)
            assert_close(move(weights.flip(0), h.flip(0), step).flip(0), move(weights, h, step), wrong, atol=1e-12)

    def test_is_a_pure_function(self, move: SimplexUpdate) -> None:
        weights, h = point_and_direction((3, 2), 0)
        kept = weights.clone(), h.clone()
        first, again = move(weights, h, 0.3), move(weights, h, 0.3)
        assert torch.equal(first, again), "the same inputs give other weights the second time"
        assert torch.equal(weights, kept[0]) and torch.equal(h, kept[1]), "it writes into its inputs"
        assert not torch.equal(first, weights), "it does not move at all"

    def test_without_evidence_nothing_moves(self, move: SimplexUpdate) -> None:
        weights, _ = point_and_direction((3, 2), 0)
        moved = move(weights, torch.zeros_like(weights), 0.3)
        assert_close(moved, weights, "a hypergradient of 0 moves the weights", rtol=1e-12, atol=0)
