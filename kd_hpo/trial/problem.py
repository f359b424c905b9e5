"""The bilevel problem as its steps see it, whoever gives the batches: a trial, or a training loop of one's own."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_hpo.config.pairs import GradientBalanced, Pairs
from kd_hpo.config.weightings import Learning
from kd_hpo.core.balance import GradientBalance, NoBalance
from kd_hpo.core.derivatives import Derivatives
from kd_hpo.core.directions import Direction, direction
from kd_hpo.core.objective import Objective
from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.params import Params
from kd_hpo.core.plan import PairPlan, Size
from kd_hpo.core.resting_adam import RestingAdam
from kd_hpo.core.weightings import Weighting
from kd_hpo.data.augment import View
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.precision import Precision
from kd_hpo.trial.memory_rows import MemoryRows
from kd_hpo.trial.randomness import REGRESSORS, generator
from kd_hpo.trial.schedule import Schedule, StepPlan


@dataclass
class PairState:
    """The pairs of a trial: their losses, how they are weighted, and how weights are learned, where they are."""

    losses: PairMatrix
    weighting: Weighting
    balance: GradientBalance | NoBalance
    optimizer: RestingAdam
    """Of the regressors, and of what the weighting has for the training loss."""
    direction: Direction | None = None
    derivatives: Derivatives = field(default_factory=Derivatives)
    """How they go through the student."""
    memory: MemoryRows | None = None
    """Where the training images stand in the memory of a loss that has one."""
    held_epochs: int = 0
    held_sum: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.held_sum = torch.zeros(self.losses.plan.shape)

    @classmethod
    def at_start(
        cls,
        plan: PairPlan,
        loss: PairLoss,
        weighting: Weighting,
        settings: Pairs,
        learning: Learning | None,
        *,
        temperature: float,
        seed: int,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> "PairState":
        """Makes the pairs of a plan at step 0: those that may have a weight are compared, and the seed draws their regressors.

        learning  how lambda moves; None where it is not learned
        tell      is told of a student through which derivatives do not go the usual way
        """
        plan = replace(plan, compared=frozenset((int(t), int(s)) for t, s in weighting.support().nonzero()))
        losses = PairMatrix(plan, loss, temperature=temperature, generator=generator(seed, REGRESSORS)).to(device)
        groups: list[dict[str, Any]] = [{"params": list(losses.parameters()), "lr": settings.regressor_lr}]
        balance: GradientBalance | NoBalance = NoBalance(plan.shape)
        if isinstance(settings.balance, GradientBalanced):
            balance = GradientBalance(plan.shape, decay=settings.balance.decay)
        looks = direction(learning.direction.kind, **learning.direction.arguments()) if learning else None
        return cls(losses, weighting, balance, RestingAdam([*groups, *weighting.parameter_groups()]), looks, Derivatives(tell))

    def modules(self) -> Mapping[str, Any]:
        parts = {"losses": self.losses, "weighting": self.weighting, "balance": self.balance, "optimizer": self.optimizer}
        return parts if self.direction is None else {**parts, "direction": self.direction}


@dataclass(frozen=True)
class Moment:
    """The student just before a step, for the Jacobian of that step: parameters, buffers, random state."""

    parameters: Params
    buffers: Params
    random: dict[str, Tensor]


@dataclass(frozen=True)
class Seen:
    """A batch at a step."""

    view: View
    teacher: Tensor | None
    """(B, K), the teacher's output; None where no loss compares it."""
    targets: Targets | None
    """What the pairs compare with; None where the step has no pairs."""
    before: Moment | None
    """The student; None where nobody looks back to it."""


class Answers(Protocol):
    """What the teacher says of one batch, asked for as much of it as a loss reads."""

    def logits(self) -> Tensor:
        """Gives the teacher's output (B, K)."""
        ...

    def targets(self, sizes: Collection[Size], compared: int | None = None) -> Targets:
        """Gives output and features, at these resolutions, of the first `compared` examples or of all."""
        ...


@dataclass(frozen=True)
class OuterPart:
    """A part of the outer batch, which goes through the student at once."""

    share: float
    """Of the batch; those of all parts sum to 1."""
    view: View
    teacher: Answers


class BilevelProblem(Protocol):
    """A student in training with its losses, its pairs and lambda: all that the formulas of a step read.

    `step` counts inner steps, `epoch` the epochs completed.
    """

    step: int
    epoch: int
    lost: int | None
    """The first step whose hypergradient was not finite: lambda has not moved by it."""

    @property
    def objective(self) -> Objective: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def student(self) -> FeatureTap: ...
    @property
    def pairs(self) -> PairState | None: ...
    @property
    def pair_settings(self) -> Pairs: ...
    @property
    def strength(self) -> float:
        """What multiplies the pairs in this epoch: beta, without what lambda has learned of it."""
        ...

    @property
    def clip_norm(self) -> float | None:
        """What the student's gradients are cut to before its step; None where they are not, as far as is known here."""
        ...

    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def optimizer(self) -> Optimizer:
        """The student's."""
        ...

    @property
    def hypergradient_time(self) -> AbstractContextManager[object]:
        """Is entered while lambda learns."""
        ...

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the student that are trained: a network of one's own may have frozen others."""
        ...

    def plain_pass(self, x: Any) -> tuple[Tensor, list[Tensor]]:
        """Runs the student as the step itself does, compiled where that is wanted: its output and features."""
        ...

    def fresh_batch(self, step: int, number: int, due: StepPlan) -> Seen:
        """Gives the batch of the training images that step and number name, as training sees it, for Hessian products."""
        ...

    def outer_parts(self) -> Sequence[OuterPart]:
        """Gives the outer batch that lambda looks at in this step, in parts of about a training batch."""
        ...

    def averaged(self, tensor: Tensor) -> Tensor:
        """Gives the mean over the processes that train the student together; with one, the tensor itself."""
        ...
