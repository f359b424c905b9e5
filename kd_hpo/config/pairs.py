"""What is compared in a trial: the logits of both networks, and the T x S pairs of their layers."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from kd_hpo.config.data import Callable
from kd_hpo.config.settings import Fraction, Key, Plain, Settings
from kd_hpo.config.training import WeightSchedule, absent


class _LogitLoss(Settings):
    """What compares the logits of teacher and student, outside the matrix."""

    weight: NonNegativeFloat = 1.0
    """kappa; 0 switches it off."""
    schedule: Annotated[WeightSchedule | None, Field(exclude_if=absent)] = None
    """How the weight follows the epochs: `{kind: warm_up, epochs: 20}`, or `points`; null keeps it."""
    temperature: PositiveFloat = 4.0
    """Of the logits, also of their pair inside the matrix, where `pairs.logits` says so: that
    pair is Hinton's whatever this is."""


class Distillation(_LogitLoss):
    """Hinton's distillation (Hinton et al. 2015)."""

    kind: Literal["hinton"] = "hinton"

    def arguments(self) -> dict[str, Any]:
        """The arguments of kd_hpo.core.logit_losses.LOGIT_LOSSES[kind]."""
        return {"temperature": self.temperature}


class OwnLogitLoss(_LogitLoss):
    """A loss of your own: a callable that returns a kd_hpo.core.logit_losses.LogitLoss."""

    kind: Literal["callable"] = "callable"
    callable: Callable
    options: dict[Key, Plain] = Field(default={})
    """What it is called with."""

    def arguments(self) -> dict[str, Any]:
        return {"reference": self.callable, "options": self.options}


LogitLoss = Annotated[Distillation | OwnLogitLoss, Field(discriminator="kind")]


class LearnedVariance(Settings):
    kind: Literal["learned"] = "learned"
    start: PositiveFloat = 0.7
    """In units of the teacher channel's own variance."""
    floor: PositiveFloat = 1e-3
    """Bounds the pair losses from below."""

    @model_validator(mode="after")
    def _start_above_floor(self) -> "LearnedVariance":
        if self.start <= self.floor:
            raise ValueError(f"the variance starts at {self.start}, which is not above its floor {self.floor}")
        return self


class FixedVariance(Settings):
    kind: Literal["fixed"] = "fixed"
    value: PositiveFloat = 1.0


class _PairLoss(Settings):
    def arguments(self) -> dict[str, Any]:
        """Of kd_hpo.core.pair_losses.PAIR_LOSSES[kind]."""
        return self.model_dump(exclude={"kind"})


class Gaussian(_PairLoss):
    """Minus a variational lower bound of mutual information with a Gaussian q(h_t | h_s) (VID, Ahn et al. 2019)."""

    kind: Literal["gaussian"] = "gaussian"
    regressor: Literal["linear", "mlp"] = "linear"
    """From the student's channels to the teacher's; mlp: the paper's three layers with ReLU, a few times the cost."""
    variance: Annotated[LearnedVariance | FixedVariance, Field(discriminator="kind")] = LearnedVariance()

    def arguments(self) -> dict[str, Any]:
        match self.variance:
            case LearnedVariance(start=start, floor=floor):
                return {"regressor": self.regressor, "variance": start, "floor": floor, "learn_variance": True}
            case FixedVariance(value=value):
                return {"regressor": self.regressor, "variance": value, "learn_variance": False}


class Hint(_PairLoss):
    """Mean squared error of a linear map and batch norm of the student, on the teacher as it is (FitNets, Romero et al. 2015)."""

    kind: Literal["hint"] = "hint"
    relu: bool = True
    """Whether a ReLU follows, as in the teacher; false where the teacher's layers are negative too."""


class InfoNCE(_PairLoss):
    """The loss of telling each example's teacher from the others of the batch (van den Oord et al. 2018).

    It bounds mutual information.
    """

    kind: Literal["infonce"] = "infonce"
    temperature: PositiveFloat = 0.1
    """Of the cosine between the regressed student and the teacher."""


class Attention(_PairLoss):
    """Squared difference of attention maps (Zagoruyko & Komodakis 2017); it needs layers that are maps."""

    kind: Literal["attention"] = "attention"


class Similarity(_PairLoss):
    """Squared difference of the examples' similarities in a batch (Tung & Mori 2019)."""

    kind: Literal["similarity"] = "similarity"


class Pkt(_PairLoss):
    """KL of the examples' similarities in a batch, as probabilities (Passalis & Tefas 2018)."""

    kind: Literal["pkt"] = "pkt"


class InformationFlowDivergence(_PairLoss):
    """Jeffreys divergence of the examples' similarities in a batch, by two kernels (Passalis et al. 2020)."""

    kind: Literal["ifm"] = "ifm"


class OwnLoss(_PairLoss):
    """A loss of your own: a callable that returns a kd_hpo.core.pair_losses.PairLoss."""

    kind: Literal["callable"] = "callable"
    callable: Callable
    options: dict[Key, Plain] = Field(default={})
    """What it is called with."""

    def arguments(self) -> dict[str, Any]:
        return {"reference": self.callable, "options": self.options}


PairLoss = Annotated[
    Gaussian | Hint | InfoNCE | Attention | Similarity | Pkt | InformationFlowDivergence | OwnLoss, Field(discriminator="kind")
]


class GradientBalanced(Settings):
    """A balance that makes each pair's gradient in the student as large as the task's there, in the optimiser's metric."""

    kind: Literal["gradient"] = "gradient"
    every: PositiveInt | None = None
    """Steps between two measures of the gradients' norms, each exact on one batch; null: a 35th of the trial's steps, closer
    together at first."""
    decay: Fraction = 0.3
    """Factor of the running averages, per measure: norms move within tens of steps, and differ by a tenth or two from batch to
    batch."""
    measures: PositiveInt = 10
    """With which step, counted from 1, the pairs are switched on and first measured: regressors are random before."""


class Unbalanced(Settings):
    kind: Literal["none"] = "none"


class Together(Settings):
    kind: Literal["together"] = "together"


class PairsFirst(Settings):
    """The pairs alone, without labels or KD, then labels and KD without pairs (FitNets' stages, Romero et al. 2015).

    Each stage has the whole learning-rate schedule, and an optimiser that starts anew.
    """

    kind: Literal["pairs_first"] = "pairs_first"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Of the trial's steps, for the pairs."""


class Pairs(Settings):
    """The T x S pair losses, all in one."""

    loss: PairLoss = Gaussian()

    strength: PositiveFloat = 3.0
    """beta: what multiplies the weighted sum of pair losses in the inner loss."""
    schedule: Annotated[WeightSchedule | None, Field(exclude_if=absent)] = None
    """How the strength follows the epochs, as that of `kd` may; lambda learns nothing where it is 0."""
    batch_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each batch's examples, its first ones, on which the pairs are compared; KD and labels have them all. What pairs
    cost goes with it, and their gradient gets noisier."""
    regressor_lr: PositiveFloat = 1e-2
    """Learning rate of regressors and variances (Adam, at unit weight)."""
    balance: Annotated[GradientBalanced | Unbalanced, Field(discriminator="kind")] = GradientBalanced()
    stages: Annotated[Together | PairsFirst, Field(discriminator="kind")] = Together()
    unserved: Literal["refuse", "leave_out"] = "refuse"
    """What becomes of pairs that the loss cannot compare; leave_out gives them weight 0."""
    logits: Literal["outside", "inside"] = "outside"
    """inside: the logits are one more layer of both networks, and their own pair uses the categorical loss."""
    targets: Literal["teacher", "shuffled"] = "teacher"
    """shuffled: each example gets the features of another one, a control that carries no teacher signal."""
