"""Products H^-1 g by Hessian products alone: what a lasting push of the inner gradient does to the outer loss at an optimum."""

from collections.abc import Callable

import torch

from kd_hpo.core.params import Params, added, dot, norm, scaled

HessianProduct = Callable[[Params, int], Params]
"""(v, number) -> H v; the number names the batch that H is of, so that a method may keep to one or take fresh ones."""


def neumann(hessian: HessianProduct, g: Params, *, terms: int = 20, step: float = 0.005) -> tuple[Params, float]:
    """Sums step * sum_k (I - step H)^k g for k < terms, each product on a fresh batch (Lorraine et al. 2020, Algorithm 3).

    It is what so many plain gradient steps of that length would pass on. It nears H^-1 g only where step < 2 / |H|.
    Returns it with |g - H q| / |g|, where H is the same in all terms.
    """
    power, total = g, scaled(g, step)
    for number in range(terms):
        power = added(power, hessian(power, number), -step)
        if number < terms - 1:
            total = added(total, power, step)
    return total, norm(power) / max(norm(g), torch.finfo(torch.float64).tiny)


def conjugate_gradient(hessian: HessianProduct, g: Params, *, damping: float = 1.0, iterations: int = 10) -> tuple[Params, float]:
    """Solves (H + damping I) q = g by so many iterations, all on one batch (Hestenes & Stiefel 1952; Pedregosa 2016).

    It stops early where it has the solution, or where the damped curvature along its direction is not positive.
    Returns it with |g - (H + damping I) q| / |g|.
    """
    q = {name: torch.zeros_like(value) for name, value in g.items()}
    residual, direction = dict(g), dict(g)
    size = start = dot(residual, residual)
    for _ in range(iterations):
        if size <= start * torch.finfo(torch.float64).eps ** 2:
            break
        curved = added(hessian(direction, 0), direction, damping)
        curvature = dot(direction, curved)
        if curvature <= 0:
            break
        q = added(q, direction, size / curvature)
        residual = added(residual, curved, -size / curvature)
        before, size = size, dot(residual, residual)
        direction = added(residual, direction, size / before)
    return q, (size / start) ** 0.5 if start else 0.0
