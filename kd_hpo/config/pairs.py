"""The pairs of a trial: the losses that compare two layers, and how the T x S of them are weighted."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from kd_hpo.config.data import Callable
from kd_hpo.config.directions import Direction, GradientFlowDirection
from kd_hpo.config.settings import FilePath, Fraction, Key, Plain, Settings

Matrix = tuple[tuple[NonNegativeFloat, ...], ...]


class Distillation(Settings):
    """Hinton's term on the logits, outside the matrix."""

    weight: NonNegativeFloat = 1.0
    """kappa; 0 switches it off."""
    temperature: PositiveFloat = 4.0


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
    """Telling each example's teacher from the others of the batch: a bound of mutual information (van den Oord et al. 2018)."""

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
    """Each pair's gradient in the student's parameters is made as large as the task's gradient there."""

    kind: Literal["gradient"] = "gradient"
    every: PositiveInt = 20
    """Steps between two measures of the gradients' norms, once enough stand."""
    decay: Fraction = 0.95
    """Factor of the running averages, per measure; one measure alone is off by a factor of about two."""
    measures: PositiveInt = 10
    """Measures before the pairs are switched on, one a step from the start."""


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


class NoPairs(Settings):
    kind: Literal["none"] = "none"


class Uniform(Settings):
    kind: Literal["uniform"] = "uniform"


class SameDepth(Settings):
    """One teacher layer for each student layer, at the same relative depth."""

    kind: Literal["same_depth"] = "same_depth"


class OnePair(Settings):
    kind: Literal["one_pair"] = "one_pair"
    teacher: str
    student: str


class SelectedPair(Settings):
    """One pair by its place: the middle layers of both networks, their last ones, or the last that are maps."""

    kind: Literal["selected"] = "selected"
    pair: Literal["middle", "last", "last_map"]


class RandomPoint(Settings):
    """A uniformly random point of the simplex."""

    kind: Literal["random"] = "random"
    draw: NonNegativeInt | None = None
    """Which one, whatever the trial's seed; null draws one from that seed."""


class FixedMatrix(Settings):
    kind: Literal["fixed"] = "fixed"
    matrix: Matrix
    """T rows of S numbers, not negative; brought to sum 1."""


class ExportedMatrix(Settings):
    """A learned matrix of a file that `kd-hpo export` wrote; reading the study makes it a fixed one."""

    kind: Literal["exported"] = "exported"
    path: FilePath
    rank: PositiveInt = 1
    """Which of the file's matrices, best first; its mean over the epochs in which it was held still."""


class ReplayedMatrices(Settings):
    """A recorded trajectory, one matrix an epoch."""

    kind: Literal["replay"] = "replay"
    matrices: Annotated[tuple[Matrix, ...], Field(min_length=1)]


class InformationFlow(Settings):
    """Same-depth pairs of which all but the last fade as training goes on: the critical period (Passalis et al. 2020, eq. 9)."""

    kind: Literal["information_flow"] = "information_flow"
    start: PositiveFloat = 100.0
    """Weight of each earlier pair in the first epoch; the last pair's is 1 throughout."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Factor of the earlier pairs' weight, per epoch."""


class CrossLayerAttention(Settings):
    """SemCKD's attention, learned from the training loss for each example."""

    kind: Literal["attention"] = "attention"
    lr: PositiveFloat = 1e-3
    factor: PositiveInt = 4


class LearnedWeights(Settings):
    """lambda learned inside the trial by hypergradient on the outer split."""

    kind: Literal["learned"] = "learned"
    direction: Direction = GradientFlowDirection()
    outer_objective: Literal["task", "task_and_teacher", "task_and_pairs"] = "task"
    """L_out on the outer split: cross-entropy; with it, agreement with the teacher's logits at kd.temperature; or the weighted
    pair losses."""
    outer_batch: PositiveInt = 256
    """Images of the outer split that an update of lambda looks at, in parts of a training batch."""
    every: PositiveInt = 10
    """Inner steps between two updates of lambda."""
    warmup: Fraction = 0.04
    """Share of the trial's steps with uniform weights, while the regressors become valid."""
    hold: Fraction = 0.5
    """Share of the trial's steps, at its end, in which lambda is held still."""
    update: Literal["mirror_descent", "softmax_logits", "projection"] = "mirror_descent"
    step: PositiveFloat = 0.03
    average: Annotated[float, Field(ge=0, lt=1)] = 0.9
    mix: Fraction = 0.01
    """Share of the uniform point mixed in at each update."""
    forget: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the log weights forgotten at each update: above 0, weights settle between uniform and a corner, a pair whose
    evidence stands one RMS out at exp(step / forget) times its share."""
    pairing: Literal["all", "one_to_one"] = "all"
    """one_to_one: a teacher layer teaches at most one student layer, which has at most one teacher layer. Pairs that share a
    layer compete: two that are good alone may be bad together."""

    keep: PositiveInt | None = None
    """How many pairs have weight, the strongest (of the assignment, where pairing is one_to_one); null keeps all."""
    start: Matrix | None = None
    """T rows of S numbers to start from, and to forget towards, instead of uniform ones; a study with search.carry_lambda gives
    each trial those of its best one so far."""
    opening: Fraction = 0.1
    """With a start: the share of the trial's steps, before lambda moves, from which on the pairs that the start leaves out are
    computed too, so that their regressors are valid by then. Until then they cost nothing."""
    idle_every: PositiveInt = 1
    """Pairs without weight are computed, and their regressors trained, at every so many-th step, and where lambda moves."""

    strength_within: Annotated[float, Field(ge=1)] = 1.0
    """Above 1, the total strength is learned beside lambda, from pairs.strength up to so many times as much or as little."""

    @model_validator(mode="after")
    def _some_steps_left(self) -> "LearnedWeights":
        if self.warmup + self.hold >= 1:
            raise ValueError(f"warmup {self.warmup} and hold {self.hold} leave no step to learn in; their sum must be below 1")
        return self


Weighting = Annotated[
    NoPairs
    | Uniform
    | SameDepth
    | OnePair
    | SelectedPair
    | RandomPoint
    | FixedMatrix
    | ExportedMatrix
    | ReplayedMatrices
    | InformationFlow
    | CrossLayerAttention
    | LearnedWeights,
    Field(discriminator="kind"),
]
