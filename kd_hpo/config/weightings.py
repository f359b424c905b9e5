"""How the T x S pairs of a trial are weighted."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from kd_hpo.config.data import Callable
from kd_hpo.config.directions import Direction, GradientFlowDirection
from kd_hpo.config.settings import FilePath, Fraction, Key, Plain, Settings

Matrix = tuple[tuple[NonNegativeFloat, ...], ...]


class _Weighting(Settings):
    @property
    def paired(self) -> bool:
        """Whether there are pairs at all."""
        return True

    @property
    def learning(self) -> "Learning | None":
        """How lambda moves along its hypergradient; None where it does not."""
        return None

    @property
    def confinable(self) -> bool:
        """Whether settings confine it to some of the pairs: `pairing` and `keep`."""
        return False


class NoPairs(_Weighting):
    kind: Literal["none"] = "none"

    @property
    def paired(self) -> bool:
        return False


class Uniform(_Weighting):
    kind: Literal["uniform"] = "uniform"


class SameDepth(_Weighting):
    """One teacher layer for each student layer, at the same relative depth."""

    kind: Literal["same_depth"] = "same_depth"


class Exits(_Weighting):
    """The teacher's logits for each of the student's layers, all alike; the logits' own pair has no weight.

    It needs the logits among the layers (`pairs.logits: inside`).
    """

    kind: Literal["exits"] = "exits"


class OnePair(_Weighting):
    kind: Literal["one_pair"] = "one_pair"
    teacher: str
    student: str


class SelectedPair(_Weighting):
    """One pair by its place: the middle layers of both networks, their last ones, or the last that are maps."""

    kind: Literal["selected"] = "selected"
    pair: Literal["middle", "last", "last_map"]


class RandomPoint(_Weighting):
    """A uniformly random point of the simplex."""

    kind: Literal["random"] = "random"
    draw: NonNegativeInt | None = None
    """Which one, whatever the trial's seed; null draws one from that seed."""


class FixedMatrix(_Weighting):
    kind: Literal["fixed"] = "fixed"
    matrix: Matrix
    """T rows of S numbers, not negative; brought to sum 1."""


class ExportedMatrix(_Weighting):
    """A learned matrix of a file that `kd-hpo export` wrote; reading the study makes it a fixed one."""

    kind: Literal["exported"] = "exported"
    path: FilePath
    rank: PositiveInt = 1
    """Which of the file's matrices, best first; its mean over the epochs in which it was held still."""


class ReplayedMatrices(_Weighting):
    """A recorded trajectory, the matrix at the end of each epoch: the next one starts from it."""

    kind: Literal["replay"] = "replay"
    matrices: Annotated[tuple[Matrix, ...], Field(min_length=1)]
    start: Matrix | None = None
    """The first epoch's; null is uniform."""
    totals: tuple[PositiveFloat, ...] = ()
    """What multiplies the strength of the pairs, a number a matrix; empty is 1 throughout, as it is in the first epoch."""

    @model_validator(mode="after")
    def _a_total_each(self) -> "ReplayedMatrices":
        if self.totals and len(self.totals) != len(self.matrices):
            raise ValueError(f"there are {len(self.totals)} totals for {len(self.matrices)} matrices; give one for each, or none")
        return self


class InformationFlow(_Weighting):
    """Same-depth pairs of which all but the last fade as training goes on: the critical period (Passalis et al. 2020, eq. 9)."""

    kind: Literal["information_flow"] = "information_flow"
    start: PositiveFloat = 100.0
    """Weight of each earlier pair in the first epoch; the last pair's is 1 throughout."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Factor of the earlier pairs' weight, per epoch."""


class RandomLayers(_Weighting):
    """Pairs drawn anew each epoch: as many teacher layers as the student has, in order, one for each student layer (RAIL-KD).

    Haidar et al. 2022. What it needs to be equal to lambda is to know nothing: a control that all pairs are tried in.
    """

    kind: Literal["random_layers"] = "random_layers"


class CrossLayerAttention(_Weighting):
    """SemCKD's attention, learned from the training loss for each example."""

    kind: Literal["attention"] = "attention"
    lr: PositiveFloat = 1e-3
    factor: PositiveInt = 4


class Learning(_Weighting):
    """The settings that say how and when lambda moves along its hypergradient on the outer split, inside a trial."""

    direction: Direction = GradientFlowDirection()
    outer_objective: Literal["task", "task_and_teacher", "task_and_pairs"] = "task"
    """L_out on the outer split: the task's loss; with it, agreement with the teacher's logits by the loss of `kd`; or the
    weighted pair losses."""
    outer_batch: PositiveInt = 256
    """Images of the outer split that an update of lambda looks at, in parts of a training batch."""
    every: PositiveInt = 10
    """Inner steps between two updates of lambda."""
    warmup: Fraction = 0.04
    """Share of the trial's steps with equal weights, or those of the start, while the regressors become valid."""
    hold: Fraction = 0.5
    """Share of the trial's steps, at its end, in which lambda is held still."""
    start: Matrix | None = None
    """T rows of S numbers to start from, and to forget towards, instead of uniform ones; a study with search.carry_lambda gives
    each trial those of its best one so far."""
    opening: Fraction = 0.1
    """With a start: the share of the trial's steps, before lambda moves, from which on the pairs that the start leaves out are
    computed too, so that their regressors are valid by then. Until then they cost nothing."""
    idle_every: PositiveInt = 1
    """Pairs without weight are computed, and their regressors trained, at every so many-th step, and where lambda moves."""

    @model_validator(mode="after")
    def _some_steps_left(self) -> "Learning":
        if self.warmup + self.hold >= 1:
            raise ValueError(f"warmup {self.warmup} and hold {self.hold} leave no step to learn in; their sum must be below 1")
        return self

    @property
    def learning(self) -> "Learning | None":
        return self

    @property
    def gathers(self) -> float | None:
        """The share of the steps from which on hypergradients are gathered before lambda moves; None where they are not."""
        return None


class LearnedWeights(Learning):
    """A matrix lambda that is learned inside the trial by hypergradient on the outer split."""

    kind: Literal["learned"] = "learned"
    evidence: bool = True
    """Whether lambda moves on evidence only: by the part of the mean hypergradient that stands out of its standard error, so that
    lambda stays at its start, or equal, where chance explains all; false: by its running average, however little that knows.
    Settings that have `average` and not this are of an earlier version, and of `false`."""
    gather: Fraction = 0.02
    """With evidence: share of the trial's steps from which on hypergradients are gathered, before lambda moves by them after
    `warmup`; no earlier than regressors begin to be valid, and with a start not before its `opening`."""
    update: Literal["mirror_descent", "softmax_logits", "projection"] = "mirror_descent"
    step: PositiveFloat = 0.03
    average: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Factor of the running average of hypergradients, without evidence; with it all that were gathered count alike."""
    mix: Fraction = 0.01
    """Share of the uniform point mixed in at each update."""
    forget: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the log weights forgotten at each update: above 0, weights settle between uniform and a corner, a pair whose
    evidence stands one RMS out at exp(step / forget) times its share."""
    pairing: Literal["all", "one_to_one"] = "all"
    """one_to_one: a teacher layer teaches at most one student layer, which has at most one teacher layer. Pairs that share a
    layer compete: two that are good alone may be bad together."""

    keep: PositiveInt | Literal["half"] | None = None
    """How many pairs have weight, the strongest (of the assignment, where pairing is one_to_one); null keeps all, half as many as
    half of the layers of the network that has fewer."""
    strength_within: Annotated[float, Field(ge=1)] = 1.0
    """Above 1, the total strength is learned beside lambda, from pairs.strength up to so many times as much or as little."""

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, given: Any) -> Any:
        if isinstance(given, dict) and "average" in given and "evidence" not in given:
            return {**given, "evidence": False}
        return given

    @model_validator(mode="after")
    def _of_the_rule(self) -> "LearnedWeights":
        name = "average" if self.evidence else "gather"
        if getattr(self, name) != type(self).model_fields[name].default:
            rule, other = str(self.evidence).lower(), str(not self.evidence).lower()
            raise ValueError(
                f"{name} {getattr(self, name):g} says nothing where evidence is {rule}; leave it out, or set evidence: {other}"
            )
        return self

    @property
    def gathers(self) -> float | None:
        return self.gather if self.evidence else None

    @property
    def confinable(self) -> bool:
        return True


class OwnWeighting(Learning):
    """A weighting of your own: a callable that returns a kd_hpo.core.weightings.Weighting.

    It gets the served pairs (T, S), 0 where the loss cannot compare, and the options. Where the weighting learns, it does so at
    the steps that the settings here say.
    """

    kind: Literal["callable"] = "callable"
    callable: Callable
    options: dict[Key, Plain] = Field(default={})
    """What it is called with, beside the served pairs and, where there is one, the start."""
    moves: bool = True
    """Whether it moves along the hypergradient of lambda; it has to say so itself too (`learns`)."""

    @property
    def learning(self) -> Learning | None:
        return self if self.moves else None


Weighting = Annotated[
    NoPairs
    | Uniform
    | SameDepth
    | Exits
    | OnePair
    | SelectedPair
    | RandomPoint
    | FixedMatrix
    | ExportedMatrix
    | ReplayedMatrices
    | InformationFlow
    | RandomLayers
    | CrossLayerAttention
    | LearnedWeights
    | OwnWeighting,
    Field(discriminator="kind"),
]
