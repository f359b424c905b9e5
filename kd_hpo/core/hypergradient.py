"""The hypergradient d L_out / d lambda (T, S): one forward-mode Jacobian-vector product, whatever T x S is."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from kd_hpo.core.params import Params

Losses = Callable[[Params], Tensor]
Slope = Callable[[Losses, Params, Params], Tensor]
"""(losses, w, direction) -> J @ direction, J the Jacobian of the losses."""


def slope(losses: Losses, w: Params, direction: Params) -> Tensor:
    """Tells how all losses of w change along a direction, J @ direction, by one forward-mode pass, however many they are.

    losses  w -> any shape, which is that of the result
    """
    with forward_ad.dual_level():  # not torch.func.jvp, under which dropout may draw another mask than in the step
        values = losses({name: forward_ad.make_dual(value, direction[name]) for name, value in w.items()})
        along: Tensor | None = forward_ad.unpack_dual(values).tangent
    return torch.zeros_like(values) if along is None else along


def hypergradient(
    pair_losses: Losses,
    w: Params,
    q: Params,
    scale: Tensor | float,
    direct: Tensor | None = None,
    slope: Slope = slope,
) -> Tensor:
    """The hypergradient - scale * J q + direct, for an inner loss that is linear in lambda.

    The inner loss is L_task(w) + sum_ts lambda_ts scale_ts D_ts(w).

    The implicit function theorem's formula (Lorraine et al. 2020) with q in the place of the inverse Hessian's
    product; J = dD/dw, taken in forward mode unless another `slope` is given (`kd_hpo.core.derivatives`).

    pair_losses  w -> D (T, S), on the batch of the inner step and with the regressors that it used
    w            the student's parameters before the step
    q            what a unit push of the inner gradient does to the outer loss (`directions`), keyed as w
    scale        () or (T, S): the total strength times each pair's balance
    direct       (T, S): d L_out / d lambda at a fixed w, where the outer loss contains lambda
    returns      (T, S)
    """
    total = -scale * slope(pair_losses, w, q)
    return total if direct is None else total + direct


def squared_slopes(losses: Losses, w: Params, generator: torch.Generator, slope: Slope = slope) -> Tensor:
    """Unbiased estimates of |dL/dw|^2 for every loss, by one slope (Hutchinson 1989).

    The slope along a random direction z of independent normal numbers has the mean square |dL/dw|^2, and a relative
    standard deviation of the square of root 2: average some.
    losses  w -> (N,), for instance the task's loss and those of all pairs; returns (N,)
    """
    z = {name: torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device) for name, value in w.items()}
    return slope(losses, w, z).square()


def central_difference(pair_losses: Losses, w: Params, q: Params, scale: Tensor | float, epsilon: float = 1e-6) -> Tensor:
    """The product of `hypergradient` by central differences, an independent check of it; use it in float64."""

    def moved(sign: int) -> Tensor:
        return pair_losses({name: value + sign * epsilon * q[name] for name, value in w.items()})

    return -scale * (moved(1) - moved(-1)) / (2 * epsilon)
