"""What is compared in a trial: the logits of both networks, and the T x S pairs of their layers."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from kd_hpo.config.data import Callable
from kd_hpo.config.settings import Fraction, Key, Plain, Settings
from kd_hpo.config.training import WeightSchedule, absent


def _absent(value: object) -> bool:
    """Not written down, as settings of before there was such a field are not."""
    return value is None


class _LogitLoss(Settings):
    """What compares the logits of teacher and student, outside the matrix."""

    weight: NonNegativeFloat = 1.0
    """kappa; 0 switches it off."""
    schedule: Annotated[WeightSchedule | None, Field(exclude_if=absent)] = None
    """How the weight follows the epochs: `{kind: warm_up, epochs: 20}` (below 1: a share of all), or `points`; null keeps it."""
    temperature: PositiveFloat = 4.0
    """Of the logits, also of their pair inside the matrix, where `pairs.logits` says so: that
    pair is Hinton's whatever this is."""
    task_weight: Annotated[PositiveFloat | None, Field(exclude_if=_absent)] = None
    """What the task's own loss, that of the labels, is multiplied by where the logits are compared: papers that write
    0.1 of cross-entropy and 0.9 of KD mean that. Without it, as where `weight` is 0, it is 1. Lambda's outer loss has it at 1."""

    def arguments(self) -> dict[str, Any]:
        """The arguments of kd_hpo.core.logit_losses.LOGIT_LOSSES[kind]."""
        shared = {"kind", *_LogitLoss.model_fields} - {"temperature"}
        return self.model_dump(exclude=shared)


class Distillation(_LogitLoss):
    """Hinton's distillation (Hinton et al. 2015)."""

    kind: Literal["hinton"] = "hinton"


class Standardised(_LogitLoss):
    """Hinton's distillation of standardised logits (Sun et al. 2024): each example's have mean 0 and deviation 1 before it.

    The paper has a weight of 9 beside 0.1 of cross-entropy (`task_weight: 0.1`), at temperature 2.
    """

    kind: Literal["standardised"] = "standardised"
    weight: NonNegativeFloat = 9.0
    temperature: PositiveFloat = 2.0


class Decoupled(_LogitLoss):
    """Decoupled distillation (DKD, Zhao et al. 2022): the label's probability, and the others among themselves."""

    kind: Literal["dkd"] = "dkd"
    target: NonNegativeFloat = 1.0
    """The paper's alpha, of the divergence between the label and all others together, as two probabilities."""
    others: NonNegativeFloat = 8.0
    """The paper's beta, of the divergence among the others, as if the label were not there: 8 for most of its networks, 2 to 6
    where the teacher is little surer of itself than the student."""


class Correlation(_LogitLoss):
    """One less the correlation of probabilities (DIST, Huang et al. 2022): of each example, and of each class over the batch.

    It couples the examples of a batch, which have to be two or more; lambda's outer loss, where that has the teacher, takes it
    over parts of the outer batch as large as a training batch.
    """

    kind: Literal["dist"] = "dist"
    weight: NonNegativeFloat = 2.0
    inter_class: NonNegativeFloat = 1.0
    """The paper's beta over `weight`, of the correlation between an example's classes."""
    intra_class: NonNegativeFloat = 1.0
    """The paper's gamma over `weight`, of the correlation between the batch's examples, class by class."""


class SquaredLogits(_LogitLoss):
    """Mean squared difference of the logits as they are (Ba & Caruana 2014; Kim et al. 2021)."""

    kind: Literal["mse"] = "mse"
    temperature: PositiveFloat = 4.0
    """Of the logits' pair inside the matrix alone, where `pairs.logits` says so: this loss has none."""

    def arguments(self) -> dict[str, Any]:
        return {}


class TargetEnhanced(_LogitLoss):
    """Distillation with the label's probability enhanced (OFA, Hao et al. 2023), for a teacher of another family.

    It is the loss of OFA's student at its own output; that of its exits is the pair loss `exit`.
    """

    kind: Literal["ofa"] = "ofa"
    temperature: PositiveFloat = 1.0
    power: PositiveFloat = 1.5
    """The paper's gamma: above 1, the label and what the teacher is sure of count more; at 1 it is Hinton's, but for a constant.
    The authors' runs have 1 to 1.5."""


class OwnLogitLoss(_LogitLoss):
    """A loss of your own: a callable that returns a kd_hpo.core.logit_losses.LogitLoss."""

    kind: Literal["callable"] = "callable"
    callable: Callable
    options: dict[Key, Plain] = Field(default={})
    """What it is called with."""

    def arguments(self) -> dict[str, Any]:
        return {"reference": self.callable, "options": self.options}


LogitLoss = Annotated[
    Distillation | Standardised | Decoupled | Correlation | SquaredLogits | TargetEnhanced | OwnLogitLoss,
    Field(discriminator="kind"),
]


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
    regressor: Annotated[Literal["convolutions"] | None, Field(exclude_if=_absent)] = None
    """convolutions: 1x1, 3x3 and 1x1 for each pair, twice as wide as the teacher's layer inside (SemCKD, Chen et al. 2021), many
    times the cost; null: the linear map."""


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


class Relational(_PairLoss):
    """Huber loss of the batch's distances and of the angles between its examples (RKD, Park et al. 2019).

    It holds a number for each three examples of the batch: 8 MB a layer for 128.
    """

    kind: Literal["rkd"] = "rkd"
    distance: NonNegativeFloat = 25.0
    """Of the term of distances, each over the mean distance of the batch."""
    angle: NonNegativeFloat = 50.0
    """Of the term of angles."""


class Exit(_PairLoss):
    """Exits at the student's layers, which learn from the teacher's logits and the labels (OFA, Hao et al. 2023).

    An exit is a linear head on a layer's mean over positions. Pairs are those with the teacher's logits: `pairs.logits: inside`
    and `unserved: leave_out`, as the method `ofa` has it. Where images are mixed, the label is both labels' shares.
    """

    kind: Literal["exit"] = "exit"
    temperature: PositiveFloat = 1.0
    power: PositiveFloat = 1.5
    """As that of `kd` of the kind ofa."""


class Review(_PairLoss):
    """Hints of student layers that are fused with the deeper ones, at four scales (ReviewKD, Chen et al. 2021)."""

    kind: Literal["review"] = "review"


class Contrast(_PairLoss):
    """Telling an image's embedding by the teacher from those of images of other classes (CRD, Tian et al. 2020).

    It keeps two memories of all training images for each pair, which each checkpoint has too: 46 MB for 45,000 images. The outer
    loss cannot have the pairs (`weighting.outer_objective: task_and_pairs`), for it has no memory of its images.
    """

    kind: Literal["crd"] = "crd"
    negatives: PositiveInt = 16_384
    temperature: PositiveFloat = 0.07
    momentum: Fraction = 0.5
    """Share that the memory of an image keeps, each time that the image is seen."""
    width: PositiveInt = 128
    """Of the embeddings."""


class OwnLoss(_PairLoss):
    """A loss of your own: a callable that returns a kd_hpo.core.pair_losses.PairLoss."""

    kind: Literal["callable"] = "callable"
    callable: Callable
    options: dict[Key, Plain] = Field(default={})
    """What it is called with."""

    def arguments(self) -> dict[str, Any]:
        return {"reference": self.callable, "options": self.options}


PairLoss = Annotated[
    Gaussian
    | Hint
    | InfoNCE
    | Attention
    | Similarity
    | Pkt
    | InformationFlowDivergence
    | Relational
    | Exit
    | Review
    | Contrast
    | OwnLoss,
    Field(discriminator="kind"),
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
    regressor_gradient: Annotated[Literal["weighted"] | None, Field(exclude_if=_absent)] = None
    """weighted: regressors learn from the weighted sum, as in the papers' own code, so that a pair of little weight hardly trains
    its regressor, and one of weight 0 not at all; null: each from its own pair's loss, whatever the pair's weight."""
    balance: Annotated[GradientBalanced | Unbalanced, Field(discriminator="kind")] = GradientBalanced()
    stages: Annotated[Together | PairsFirst, Field(discriminator="kind")] = Together()
    unserved: Literal["refuse", "leave_out"] = "refuse"
    """What becomes of pairs that the loss cannot compare; leave_out gives them weight 0."""
    logits: Literal["outside", "inside"] = "outside"
    """inside: the logits are one more layer of both networks, and their own pair uses the categorical loss."""
    targets: Literal["teacher", "shuffled"] = "teacher"
    """shuffled: each example gets the features of another one, a control that carries no teacher signal."""
