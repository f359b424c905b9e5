"""Which pairs of a matrix weigh most."""

import numpy as np
import pytest

from kd_hpo.study.results.pairs import from_uniform, strongest_pairs


def test_the_heaviest_come_first_and_equal_ones_as_the_matrix_has_them() -> None:
    matrix = ((0.1, 0.3, 0.0), (0.3, 0.0, 0.3))
    assert strongest_pairs(matrix) == [(0, 1), (1, 0), (1, 2), (0, 0), (0, 2), (1, 1)]
    assert strongest_pairs(matrix, 2) == [(0, 1), (1, 0)]
    assert strongest_pairs(np.array(matrix), above=0.1) == [(0, 1), (1, 0), (1, 2)]
    assert strongest_pairs(matrix, 1, above=0.3) == []


def test_what_is_not_a_number_comes_last_or_not_at_all() -> None:
    matrix = ((float("nan"), 0.2), (0.5, 0.3))
    assert strongest_pairs(matrix) == [(1, 0), (1, 1), (0, 1), (0, 0)]
    assert strongest_pairs(matrix, above=0) == [(1, 0), (1, 1), (0, 1)]


@pytest.mark.parametrize(
    ("matrix", "far"), [([[0.25, 0.25], [0.25, 0.25]], 0), ([[1, 0], [0, 0]], 0.75), ([[0.5, 0.5, 0, 0]], 0.5), ([[1]], 0)]
)
def test_distance_from_equal_weights(matrix: list[list[float]], far: float) -> None:
    assert from_uniform(matrix) == pytest.approx(far)
