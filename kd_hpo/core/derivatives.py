"""How derivatives go through a student: forwards, and where a part of it has no rule for that, by other ways to the same numbers.

A memory-saving activation, a rounding with a gradient of its own and the kernels of some layers know the backward pass alone.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from kd_hpo.core.hypergradient import Losses, slope
from kd_hpo.core.params import Params, added, norm, scaled

Gradient = Callable[[Params], Params]
"""The gradient of a loss; it may be differentiated again where the parameters that it is given require that."""

Way = TypeVar("Way")

_SAME, _NEAR = 1e-2, 5e-2
"""How far two ways to the same numbers may be apart, as a share of the largest: rounding in float32 is well below; and how far
differences may be."""


class Derivatives:
    """The derivatives of one student: the first way through it is found, checked by its backward pass, told, and kept.

    tell  is told, once, where that is not the usual way
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        self._tell = tell
        self._slopes = dict(_SLOPES)
        self._products = dict(_PRODUCTS)
        self._usual: bool | None = None
        """Whether it is forward mode that goes through; None before anything has been tried."""

    def slope(self, losses: Losses, w: Params, direction: Params) -> Tensor:
        """The product J @ direction, J the Jacobian of the losses, in the shape of the losses."""
        while True:
            name, way = next(iter(self._slopes.items()))
            try:
                along = way(losses, w, direction)
            except RuntimeError as error:  # torch has no type of its own for a rule that is missing
                self._give_up(self._slopes, name, error)
                continue
            if len(self._slopes) == 2:  # found now, and of a backward pass that torch may not be able to look into
                if not _alike(along, slope_by_backward(losses, w, direction)):
                    self._give_up(self._slopes, name, RuntimeError("they are not those of its backward pass"))
                    continue
                self._slopes = {name: way}
            self._usual = way is slope
            return along

    def hessian_product(self, gradient: Gradient, w: Params, v: Params, losses: Losses) -> Params:
        """The product H v, H the Hessian of the loss that the gradient is of.

        v may be of some of the parameters, and the product is of those.

        losses  of the same student, which tell whether all in it has a rule for forward mode: what has one is torch's own, or
                written with care. Of the rest, torch may leave second derivatives out without a word.
        """
        if self._usual is None:
            self.slope(losses, w, {name: v.get(name, torch.zeros_like(value)) for name, value in w.items()})
        while True:
            name, way = next(iter(self._products.items()))
            try:
                product = way(gradient, w, v)
            except RuntimeError as error:
                self._give_up(self._products, name, error)
                continue
            if len(self._products) > 1 and not self._usual:
                other = hessian_product_by_differences(gradient, w, v)
                if norm(added(product, other, -1.0)) > _NEAR * norm(other):
                    self._give_up(self._products, name, RuntimeError("they are not those of its gradient"))
                    continue
                self._products = {name: way}
            return product

    def _give_up(self, ways: dict[str, Way], name: str, error: RuntimeError) -> None:
        if len(ways) == 1 or isinstance(error, torch.OutOfMemoryError):
            raise error
        reason = " ".join(str(error).split())[:120]
        del ways[name]
        self._tell(f"{name} do not go through the student ({reason}); they are taken by {next(iter(ways))}")


def slope_by_double_backward(losses: Losses, w: Params, direction: Params) -> Tensor:
    """The product J @ direction: u -> J^T u is linear, and its transpose, by a second backward pass, is J."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
        values = losses(leaves)
        u = torch.zeros_like(values, requires_grad=True)
        gradients = _gradients(values, leaves, u, create_graph=True)
        along = torch.stack([(g * direction[name]).sum() for name, g in gradients.items()]).sum()
        return torch.autograd.grad(along, u, materialize_grads=True)[0].detach()


def slope_by_backward(losses: Losses, w: Params, direction: Params) -> Tensor:
    """The product J @ direction, by a backward pass for each loss: what training itself goes by."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
        values = losses(leaves)
        along = []
        for value in values.flatten():
            gradients = _gradients(value, leaves) if value.requires_grad else {}
            slopes = [(g * direction[name]).sum() for name, g in gradients.items()]
            along.append(torch.stack(slopes).sum() if slopes else torch.zeros_like(value))
    return torch.stack(along).detach().view_as(values)


def hessian_product(gradient: Gradient, w: Params, v: Params) -> Params:
    """The product H v, as the gradient of the gradient's slope along v."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
        along = {name: leaves[name] for name in v}
        gradients = gradient(leaves)
        total = torch.stack([(gradients[name] * v[name]).sum() for name in along]).sum()
        products = torch.autograd.grad(total, list(along.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(along, products, strict=True))


def hessian_product_by_differences(gradient: Gradient, w: Params, v: Params) -> Params:
    """The product H v by the difference of two gradients, on both sides of w.

    In float32 it is exact to some thousandths.
    """
    length = norm(v)
    if not length:
        return {name: torch.zeros_like(value) for name, value in v.items()}
    precision = torch.finfo(next(iter(w.values())).dtype).eps
    step = precision ** (1 / 3) * max(norm(w), 1.0) / length

    def moved(by: float) -> Params:
        with torch.enable_grad():
            at = {name: (value + by * v[name] if name in v else value).detach().requires_grad_() for name, value in w.items()}
            return {name: g.detach() for name, g in gradient(at).items() if name in v}

    return scaled(added(moved(step), moved(-step), -1.0), 0.5 / step)


def _gradients(values: Tensor, w: Params, u: Tensor | None = None, *, create_graph: bool = False) -> Params:
    found = torch.autograd.grad(
        values, list(w.values()), u, create_graph=create_graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(w, found, strict=True))


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= _SAME * other.abs().max())


_SLOPES: dict[str, Callable[[Losses, Params, Params], Tensor]] = {
    "derivatives in forward mode": slope,
    "two backward passes, exactly but slower": slope_by_double_backward,
    "a backward pass for each pair, exactly but slower": slope_by_backward,
}
_PRODUCTS: dict[str, Callable[[Gradient, Params, Params], Params]] = {
    "second derivatives": hessian_product,
    "differences of two gradients": hessian_product_by_differences,
}
