"""The direction q of a hypergradient: d L_out / d lambda = - (J q) * scale, with J the Jacobian of the pair losses.

Every method shares the one Jacobian-vector product and differs only in q, a vector of the student's size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from kd_hpo.core.implicit import HessianProduct, conjugate_gradient, neumann
from kd_hpo.core.params import Params
from kd_hpo.errors import Diverged


def update_jacobian(optimizer: Optimizer, before: Params, parameters: Mapping[str, nn.Parameter]) -> Params:
    """- dw' / d(gradient), elementwise, of the step that the optimiser has just taken.

    before      the parameters w before the step
    parameters  the same parameters after it, their gradients still in place
    SGD with momentum has lr, Nesterov's form lr * (1 + momentum); Adam and AdamW differentiate both of their moments.
    Raises TypeError for an optimiser whose update is not known here.
    """
    if type(optimizer) not in UPDATE_JACOBIANS:
        raise TypeError(f"no update Jacobian for {type(optimizer).__name__}; known: {[c.__name__ for c in UPDATE_JACOBIANS]}")
    jacobian = UPDATE_JACOBIANS[type(optimizer)]
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return {name: jacobian(p, before[name], optimizer.state[p], groups[id(p)]) for name, p in parameters.items()}


def _sgd(p: nn.Parameter, before: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]) -> Tensor:
    factor = group["lr"] * (1 + group["momentum"] if group["nesterov"] else 1)
    return torch.full_like(before, factor)


def _adam(p: nn.Parameter, before: Tensor, state: Mapping[str, Tensor], group: Mapping[str, Any]) -> Tensor:
    beta1, beta2 = group["betas"]
    assert p.grad is not None
    gradient = p.grad if group["decoupled_weight_decay"] else p.grad + group["weight_decay"] * before
    step = float(state["step"])
    bias1, bias2 = 1 - beta1**step, 1 - beta2**step
    mean, root = state["exp_avg"] / bias1, (state["exp_avg_sq"] / bias2).sqrt()
    denominator = root + group["eps"]
    # root = sqrt(v): d root / dg = (1 - beta2) g / (bias2 root); where v is 0 so is g, and the limit is 0.
    droot = torch.where(root > 0, (1 - beta2) * gradient / (bias2 * root.clamp_min(torch.finfo(root.dtype).tiny)), 0.0)
    factor: Tensor = group["lr"] * ((1 - beta1) / bias1 / denominator - mean * droot / denominator.square())
    return factor


UPDATE_JACOBIANS: dict[type[Optimizer], Callable[..., Tensor]] = {SGD: _sgd, Adam: _adam, AdamW: _adam}


@dataclass(frozen=True)
class InnerStep:
    """What a direction may ask of the inner problem; nothing is computed before it does."""

    jacobian: Callable[[], Params]
    """- dw' / d(gradient) of the step just taken, elementwise."""
    hessian: HessianProduct
    """Products with the Hessian of the inner loss at w, on batches other than the step's."""


class Direction(Protocol):
    """Makes q from the outer loss's gradient; `observe` sees every inner step's gradient."""

    after_step: bool
    """Whether it takes the outer gradient at the parameters after the inner step, or at those before it."""
    residual: float
    """How far the last q is from solving what it should, as a share of the outer gradient's norm; 0 for closed forms."""

    def observe(self, gradient: Params) -> None: ...

    def __call__(self, outer_gradient: Params, step: InnerStep) -> Params: ...

    def state_dict(self) -> Params: ...

    def load_state_dict(self, state: Params) -> None: ...


class _Stateless:
    residual = 0.0

    def observe(self, gradient: Params) -> None: ...

    def state_dict(self) -> Params:
        return {}

    def load_state_dict(self, state: Params) -> None: ...


class OneStep(_Stateless):
    """q = (- dw' / d gradient) * grad L_out(w'): exact for one step of the optimiser (as DARTS, Liu et al. 2019).

    Exact, and short-sighted: where the curvature is high a step overshoots, grad L_out(w') points back, and the pairs that
    pull with the task look harmful.
    """

    after_step = True

    def __call__(self, outer_gradient: Params, step: InnerStep) -> Params:
        factor = step.jacobian()
        return {name: factor[name] * g for name, g in outer_gradient.items()}


class GradientFlow(_Stateless):
    """q = grad L_out(w) at the parameters w of the Jacobian itself: the limit of small steps, without their overshoot.

    A pair counts by how well its gradient agrees with that of the outer loss; with balanced pairs, by the cosine of the two.
    """

    after_step = False

    def __call__(self, outer_gradient: Params, step: InnerStep) -> Params:
        return {name: g.clone() for name, g in outer_gradient.items()}


class Implicit(GradientFlow):
    """q nears H^-1 grad L_out(w) by Hessian products: what a lasting push does to the outer loss (Lorraine et al. 2020).

    Raises Diverged where the solver has left the finite numbers.
    """

    def __init__(self, solve: Callable[[HessianProduct, Params], tuple[Params, float]]) -> None:
        self.solve = solve

    def __call__(self, outer_gradient: Params, step: InnerStep) -> Params:
        q, self.residual = self.solve(step.hessian, outer_gradient)
        if not isfinite(self.residual):
            raise Diverged(
                "the direction of the hypergradient is not finite: the curvature is too high for it; give "
                "weighting.direction a smaller step (neumann), more damping (conjugate_gradient) or kind: gradient_flow"
            )
        return q


class DiagonalFisher:
    """q = g / (v + damping), v the running mean of the squared training gradient: an approximation of H^-1 g.

    v is the diagonal of the empirical Fisher matrix. Where the training loss is flat a push lasts, so q looks further
    ahead than one step, and costs nothing more. Its length is not that of a step: use it with a normalised update.
    """

    after_step = True
    residual = 0.0

    def __init__(self, decay: float = 0.98, damping: float = 1e-4) -> None:
        self.decay, self.damping = decay, damping
        self.mean_square: Params = {}
        self.steps = 0

    def observe(self, gradient: Params) -> None:
        self.steps += 1
        for name, g in gradient.items():
            if name in self.mean_square:
                self.mean_square[name] = self.mean_square[name].to(g)  # a checkpoint is read on the CPU
                self.mean_square[name].mul_(self.decay).addcmul_(g, g, value=1 - self.decay)
            else:
                self.mean_square[name] = (1 - self.decay) * g.square()

    def __call__(self, outer_gradient: Params, step: InnerStep) -> Params:
        unbiased = 1 - self.decay**self.steps
        return {n: g / (self.mean_square[n] / unbiased + self.damping) for n, g in outer_gradient.items()}

    def state_dict(self) -> Params:
        return {**self.mean_square, "#steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Params) -> None:
        self.steps = int(state["#steps"])
        self.mean_square = {name: v.clone() for name, v in state.items() if name != "#steps"}


DIRECTIONS: dict[str, Callable[..., Direction]] = {
    "one_step": OneStep,
    "gradient_flow": GradientFlow,
    "diagonal_fisher": DiagonalFisher,
    "neumann": lambda **settings: Implicit(partial(neumann, **settings)),
    "conjugate_gradient": lambda **settings: Implicit(partial(conjugate_gradient, **settings)),
}
