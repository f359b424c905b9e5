"""Quantiles of Student's t distribution, of any degrees of freedom, which torch has not, without SciPy."""

from math import exp, lgamma, log, log1p, pi
from statistics import NormalDist

_EPSILON, _TINY, _MOST, _STEPS = 1e-16, 1e-300, 500, 50


def t_quantile(free: float, chance: float) -> float:
    """The t below which a variable of so many degrees of freedom is with this chance, in (1/2, 1), by Newton's method.

    The tail of t is I_x(free / 2, 1 / 2) / 2 with x = free / (free + t^2).
    """
    tail, t = 1 - chance, NormalDist().inv_cdf(chance)
    scale = lgamma((free + 1) / 2) - lgamma(free / 2) - 0.5 * log(free * pi)
    for _ in range(_STEPS):
        there = _tail(free, t)
        step = log(there / tail) * there / exp(scale - (free + 1) / 2 * log1p(t * t / free))  # of the logarithm, nearly a line
        t += step
        if abs(step) <= _EPSILON * t:
            break
    return t


def _tail(free: float, t: float) -> float:
    return 0.5 * _incomplete_beta(free / 2, 0.5, free / (free + t * t), t * t / (free + t * t))


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b), x + rest = 1, by its continued fraction (Numerical Recipes, 6.4)."""
    if x in (0.0, 1.0):
        return x
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(rest))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, rest) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function."""
    c, d = 1.0, _away(1 - (a + b) * x / (a + 1))
    d = 1 / d
    value = d
    for m in range(1, _MOST):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _away(1 + numerator * d), _away(1 + numerator / c)
            value *= d * c
        if abs(d * c - 1) < _EPSILON:
            break
    return value


def _away(x: float) -> float:
    return x if abs(x) > _TINY else _TINY
