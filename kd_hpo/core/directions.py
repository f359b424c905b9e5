"""The direction q of a hypergradient: d L_out / d lambda = - sum_k (J_k q_k) * scale_k, J_k the Jacobian of the pair losses.

Every method shares the one Jacobian-vector product and differs in the inner steps k that it looks at and in q_k, a vector of
the student's size: what a push of the inner gradient of step k does to the outer loss.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kd_hpo.callables import import_callable
from kd_hpo.core.hypergradient import Losses
from kd_hpo.core.implicit import HessianProduct, conjugate_gradient, neumann
from kd_hpo.core.params import Params, added, between, scaled
from kd_hpo.core.updates import Cotangents, Update, pull_back
from kd_hpo.errors import ConfigError, Diverged


@dataclass(frozen=True)
class InnerStep:
    """One step of the inner problem, with what a direction may ask of it; nothing is computed before it does."""

    number: int
    """Among the trial's steps, from 0."""
    w: Params
    """The student's trained parameters before it."""
    scale: Tensor
    """(T, S): strength times balance; the pairs' gradients entered the step as lambda * scale * dD/dw."""
    pair_losses: Losses
    """w -> D (T, S) on the step's batch, with the regressors that it used."""
    hessian: Callable[[Params, Params, int], Params]
    """(w, v, batch) -> H v, with H of the inner loss: on the step's own batch for 0, on the n-th fresh one for n > 0."""
    update: Update
    gradient: Params = field(default_factory=dict)
    """Of the inner loss; empty before it has been taken."""


Share = tuple[InnerStep, Params]
"""A step k and its q_k; a hypergradient is the sum over them."""


@runtime_checkable
class Direction(Protocol):
    """The maker of the q_k, from the outer loss's gradient and from the inner steps that it has seen."""

    after_step: bool
    """Whether it takes the outer gradient at the parameters after the last inner step, or at those before it."""
    residual: float
    """How far the last q is from solving what it should, as a share of the outer gradient's norm; 0 for closed forms."""

    def needs(self, ahead: int) -> bool:
        """Whether the direction has to see a step that so many others follow before the next update of lambda."""
        ...

    def record(self, step: InnerStep) -> None:
        """Takes a step that the direction `needs`, once it is done, with its gradient; the last one before an update too."""
        ...

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]: ...

    def forget_steps(self) -> None:
        """Forgets the steps between epochs: a resumed trial knows nothing of them but what stands in `state_dict`."""
        ...

    def state_dict(self) -> Params: ...

    def load_state_dict(self, state: Params) -> None: ...


class _OfLastStep:
    """A direction that looks at the last step alone."""

    residual = 0.0

    def needs(self, ahead: int) -> bool:
        return False

    def record(self, step: InnerStep) -> None: ...

    def forget_steps(self) -> None: ...

    def state_dict(self) -> Params:
        return {}

    def load_state_dict(self, state: Params) -> None: ...


class GradientFlow(_OfLastStep):
    """The direction q = grad L_out(w) at the Jacobian's parameters w: the limit of small steps, without their overshoot.

    A pair counts by how well its gradient agrees with that of the outer loss; with balanced pairs, by the cosine of the two.
    """

    after_step = False

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        return [(last, outer_gradient)]


class Implicit(_OfLastStep):
    """The direction that nears H^-1 grad L_out(w) by Hessian products (Lorraine et al. 2020).

    It is what a lasting push does to the outer loss.

    Raises Diverged where the solver has left the finite numbers.
    """

    after_step = False

    def __init__(self, solve: Callable[[HessianProduct, Params], tuple[Params, float]]) -> None:
        self.solve = solve

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        q, self.residual = self.solve(lambda v, number: last.hessian(last.w, v, 1 + number), outer_gradient)
        if not isfinite(self.residual):
            raise Diverged(
                "the direction of the hypergradient is not finite: the curvature is too high for it; give "
                "weighting.direction a smaller step (neumann), more damping (conjugate_gradient) or kind: gradient_flow"
            )
        return [(last, q)]


class DiagonalFisher:
    """The direction q = g / (v + damping), v the running mean of the squared training gradient, which nears H^-1 g.

    v is the diagonal of the empirical Fisher matrix. Where the training loss is flat a push lasts, so q looks further
    ahead than one step, and costs nothing more. Its length is not that of a step: use it with a normalised update.
    """

    after_step = True
    residual = 0.0

    def __init__(self, decay: float = 0.98, damping: float = 1e-4) -> None:
        self.decay, self.damping = decay, damping
        self.mean_square: Params = {}
        self.steps = 0

    def needs(self, ahead: int) -> bool:
        return True

    def record(self, step: InnerStep) -> None:
        self.steps += 1
        for name, g in step.gradient.items():
            if name in self.mean_square:
                self.mean_square[name] = self.mean_square[name].to(g)  # a checkpoint is read on the CPU
                self.mean_square[name].mul_(self.decay).addcmul_(g, g, value=1 - self.decay)
            else:
                self.mean_square[name] = (1 - self.decay) * g.square()

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        unbiased = 1 - self.decay**self.steps
        return [(last, {n: g / (self.mean_square[n] / unbiased + self.damping) for n, g in outer_gradient.items()})]

    def forget_steps(self) -> None: ...

    def state_dict(self) -> Params:
        return {**self.mean_square, "#steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Params) -> None:
        self.steps = int(state["#steps"])
        self.mean_square = {name: v.clone() for name, v in state.items() if name != "#steps"}


# ---- several steps back


class _OfSeveralSteps(_OfLastStep):
    """A direction that looks back over the last `steps` steps, at most to the last update or the start of the epoch."""

    after_step = True

    def __init__(self, steps: int) -> None:
        self.seen: deque[InnerStep] = deque(maxlen=steps)

    def needs(self, ahead: int) -> bool:
        return ahead < (self.seen.maxlen or 0)

    def record(self, step: InnerStep) -> None:
        self.seen.append(step)

    def forget_steps(self) -> None:
        self.seen.clear()


class Unrolled(_OfSeveralSteps):
    """The adjoint carried back through the last steps that were really taken (Maclaurin et al. 2015; Franceschi et al. 2017).

    With decay 1 it is exact, through the optimiser's state too, for weights that are the same in these steps and regressors
    that are as they were. For one step it is that of DARTS (Liu et al. 2019). Below 1, what an earlier step did counts that
    factor less with each step after it (Donini et al. 2020), since its trace through a training that goes on by chance is lost.

    Exact does not mean far-sighted: where the curvature is high a step overshoots on its own batch, grad L_out(w') points
    back, and the pairs that pull with the task look harmful.
    """

    def __init__(self, steps: int = 1, decay: float = 1.0) -> None:
        super().__init__(steps)
        self.decay = decay

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        steps = list(self.seen)
        self.forget_steps()
        return adjoint(steps, outer_gradient, self.decay)


class DrMad(_OfSeveralSteps):
    """The adjoint carried back along the straight line from the first of the last steps to the last one (Fu et al. 2016).

    It keeps one copy of the parameters where `Unrolled` keeps one a step; the optimiser's state and the gradient are those of
    the last step throughout.
    """

    def __init__(self, steps: int = 10) -> None:
        super().__init__(steps)

    def record(self, step: InnerStep) -> None:
        if len(self.seen) == self.seen.maxlen:  # no update came of them: lambda was not yet learned
            self.forget_steps()
        kept = replace(step, update=replace(step.update, state={}), gradient={})
        self.seen.append(replace(kept, w={}) if self.seen else kept)

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        steps = list(self.seen)
        self.forget_steps()
        start, count = steps[0].w, max(len(steps) - 1, 1)
        line = [
            replace(
                step,
                w=between(start, last.w, k / count),
                update=replace(step.update, state=last.update.state, counts=last.update.counts),
                gradient=last.gradient,
            )
            for k, step in enumerate(steps)
        ]
        return adjoint(line, outer_gradient, 1.0)


class HyperDistill(_OfLastStep):
    """One step that stands for all before it: at the mean of their parameters, on the batch of one of them (Lee et al. 2022).

    An earlier step counts `decay` less with each step after it, in the mean and as the chance to give the batch. The paper fits
    the length of the result too; here lambda moves by normalised hypergradients, which have no length.
    """

    after_step = True

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.count = 0
        self.distilled: InnerStep | None = None

    def needs(self, ahead: int) -> bool:
        return True

    def record(self, step: InnerStep) -> None:
        self.count += 1
        before = (self.decay - self.decay**self.count) / (1 - self.decay**self.count)  # share of what was seen before
        chance = torch.rand((), generator=torch.Generator().manual_seed(step.number)).item()
        if self.distilled is None:
            self.distilled = step
        else:
            batch = self.distilled if chance < before else step
            self.distilled = replace(batch, w=between(step.w, self.distilled.w, before))

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        assert self.distilled is not None
        return adjoint([self.distilled], outer_gradient, 1.0)

    def forget_steps(self) -> None:
        self.count, self.distilled = 0, None


def adjoint(steps: Sequence[InnerStep], outer_gradient: Params, decay: float) -> list[Share]:
    """The q of every step: - dL_out / d gradient_k, where L_out follows w' and the optimiser's state through all steps after."""
    shares = list[Share]()
    later = Cotangents(outer_gradient, {})
    for ahead, step in enumerate(reversed(steps)):
        w = {name: step.w[name] for name in outer_gradient}
        by_gradient, earlier = pull_back(step.update, w, step.gradient, later)
        shares.append((step, scaled(by_gradient, -(decay**ahead))))
        if ahead < len(steps) - 1:
            bent = step.hessian(step.w, by_gradient, 0)
            later = Cotangents(added(earlier.w, bent, 1.0), earlier.state)
    return shares


DIRECTIONS: dict[str, Callable[..., Direction]] = {
    "one_step": Unrolled,
    "unrolled": Unrolled,
    "gradient_flow": GradientFlow,
    "diagonal_fisher": DiagonalFisher,
    "neumann": lambda **settings: Implicit(partial(neumann, **settings)),
    "conjugate_gradient": lambda **settings: Implicit(partial(conjugate_gradient, **settings)),
    "drmad": DrMad,
    "hyperdistill": HyperDistill,
}


def direction(kind: str, **settings: Any) -> Direction:
    """A direction of DIRECTIONS, or, of the kind `callable`, what the callable at `reference` makes of its `options`.

    Raises ConfigError where that is no Direction.
    """
    if kind != "callable":
        return DIRECTIONS[kind](**settings)
    made = import_callable(settings["reference"])(**settings["options"])
    if not isinstance(made, Direction):
        raise ConfigError(
            f"{settings['reference']} returned a {type(made).__name__}; a direction has after_step, residual, needs, record, "
            "forget_steps, state_dict and load_state_dict, and is called with the outer gradient and the last step: return an "
            "object like those in kd_hpo.core.directions"
        )
    return made
