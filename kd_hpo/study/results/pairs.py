"""Which pairs of a matrix weigh most."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def strongest_pairs(matrix: ArrayLike, most: int | None = None, *, above: float = -math.inf) -> list[tuple[int, int]]:
    """Gives the places (t, s) of the pairs of a matrix (T, S), the heaviest first.

    most   how many of them; None for all
    above  only pairs that weigh more than this
    Of equal ones those come first that the matrix has first, row by row; weights that are nan come last, or not at all.
    """
    weights: Any = np.asarray(matrix, dtype=float)
    order = np.argsort(-weights, axis=None, kind="stable")
    places = [divmod(int(place), weights.shape[1]) for place in order]
    heavy = places if above == -math.inf else [place for place in places if weights[place] > above]
    return heavy[:most]


FEW_UPDATES = 50
"""Fewer updates leave lambda close to where it started, or let chance decide where it goes."""


def from_uniform(matrix: ArrayLike) -> float:
    """Tells how far weights (T, S) of sum 1 are from equal ones: half the sum of the differences, 0 to 1 - 1 / (T S)."""
    weights = np.asarray(matrix, dtype=float)
    return float(np.abs(weights - 1 / weights.size).sum() / 2)
