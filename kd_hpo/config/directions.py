"""How a hypergradient looks ahead: the settings of kd_hpo.core.directions."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from kd_hpo.config.data import Callable
from kd_hpo.config.settings import Fraction, Key, Plain, Settings


class _Direction(Settings):
    def arguments(self) -> dict[str, Any]:
        """Of kd_hpo.core.directions.DIRECTIONS[kind]."""
        return self.model_dump(exclude={"kind"})


class OneStepDirection(_Direction):
    """The direction that is exact for one step of the optimiser; where steps overshoot, the wrong pairs look good.

    The outer gradient is that after the step.
    """

    kind: Literal["one_step"] = "one_step"


class UnrolledDirection(_Direction):
    """The direction that is exact for the last steps together, or counts earlier ones less.

    It takes a Hessian product and a copy of the student for each step.
    """

    kind: Literal["unrolled"] = "unrolled"
    steps: PositiveInt = 10
    """At most those since the last update of lambda in the same epoch."""
    decay: Fraction = 1.0
    """What a step counts less with each step after it; 1 is exact."""


class DrMadDirection(_Direction):
    """The unrolled direction along a straight line from the first of the steps to the last one: two copies of the student."""

    kind: Literal["drmad"] = "drmad"
    steps: PositiveInt = 10


class HyperDistillDirection(_Direction):
    """One step that stands for all before it, at the running mean of their parameters; no Hessian product."""

    kind: Literal["hyperdistill"] = "hyperdistill"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9


class GradientFlowDirection(_Direction):
    """The outer gradient before the step, the limit of small steps: a pair counts by how well its gradient agrees with it."""

    kind: Literal["gradient_flow"] = "gradient_flow"


class DiagonalFisherDirection(_Direction):
    """The outer gradient after the step over the training gradient's mean square, a stand-in for the curvature."""

    kind: Literal["diagonal_fisher"] = "diagonal_fisher"
    decay: Fraction = 0.98
    damping: PositiveFloat = 1e-4


class NeumannDirection(_Direction):
    """A number of plain gradient steps looked ahead by the Hessian, from before the step; a Hessian product a term."""

    kind: Literal["neumann"] = "neumann"
    terms: PositiveInt = 20
    step: PositiveFloat = 0.005


class ConjugateGradientDirection(_Direction):
    """The damped inverse Hessian, from before the step; a Hessian product an iteration."""

    kind: Literal["conjugate_gradient"] = "conjugate_gradient"
    damping: PositiveFloat = 1.0
    iterations: PositiveInt = 10


class OwnDirection(_Direction):
    """A direction of your own: a callable that returns a kd_hpo.core.directions.Direction."""

    kind: Literal["callable"] = "callable"
    callable: Callable
    options: dict[Key, Plain] = Field(default={})
    """What it is called with."""

    def arguments(self) -> dict[str, Any]:
        return {"reference": self.callable, "options": self.options}


Direction = Annotated[
    OneStepDirection
    | UnrolledDirection
    | DrMadDirection
    | HyperDistillDirection
    | GradientFlowDirection
    | DiagonalFisherDirection
    | NeumannDirection
    | ConjugateGradientDirection
    | OwnDirection,
    Field(discriminator="kind"),
]
