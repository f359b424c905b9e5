"""What one trial does: data, networks, the inner problem, and how the pairs are weighted."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from kd_hpo.config.settings import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Size = PositiveInt | Share
Layers = Annotated[tuple[str, ...], Field(min_length=1)]
Matrix = tuple[tuple[NonNegativeFloat, ...], ...]


class Digits(Settings):
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 that ship inside the package."""

    kind: Literal["digits"] = "digits"


class ImageFolder(Settings):
    """A folder of images: `<class>/*.png`, or `train/<class>/*` and `test/<class>/*`."""

    kind: Literal["image_folder"] = "image_folder"
    path: Path
    size: PositiveInt | None = None
    """Side in pixels that images are brought to; needed where their sizes differ."""


class TorchvisionData(Settings):
    """A data set of torchvision by its class name, such as CIFAR10."""

    kind: Literal["torchvision"] = "torchvision"
    name: str
    root: Path
    download: bool = False


Data = Annotated[Digits | ImageFolder | TorchvisionData, Field(discriminator="kind")]


class SplitSizes(Settings):
    """Four disjoint, stratified splits; a whole number counts images, a fraction is of all images outside the test half."""

    train: Size | None = None
    """Inner loss; null takes all that the others leave."""
    outer: Size = 0.1
    """Hypergradient, nothing else."""
    val: Size = 0.1
    """Compares trials and picks the best epoch."""
    test: Size | None = None
    """Opened once, for winners and baselines; null takes the data set's own test half."""
    seed: NonNegativeInt = 0


class Network(Settings):
    name: str
    """One of kd_hpo.nets.zoo.NETWORKS."""
    arguments: dict[str, Any] = Field(default={})


class Sgd(Settings):
    kind: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.05
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 5e-4

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "Sgd":
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; give a momentum or set nesterov: false")
        return self


class Adam(Settings):
    kind: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0


class AdamW(Settings):
    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-2


class Training(Settings):
    epochs: PositiveInt
    batch_size: PositiveInt = 128
    optimizer: Annotated[Sgd | Adam | AdamW, Field(discriminator="kind")] = Sgd()
    lr_schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"


class Teacher(Settings):
    network: Network
    layers: Layers
    """Dotted module names, in order of depth; the logits are added where `pairs.logits` says inside."""
    weights: Path | None = None
    """A safetensors file; null trains the teacher once and keeps it for every study that has the same one."""
    images: Literal["train", "train_and_extra"] = "train"
    """What it is trained on: the train split, or also the images that no split holds."""
    training: Training = Training(epochs=25)
    augment: tuple[Literal["flip", "crop"], ...] = ()
    """Random views in the teacher's own training; the student and the teacher's features see the plain images."""
    seed: NonNegativeInt = 0


class Student(Settings):
    network: Network
    layers: Layers


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


class GradientBalanced(Settings):
    """Each pair's gradient at its student layer is made as large as the task's gradient there."""

    kind: Literal["gradient"] = "gradient"
    every: PositiveInt = 10
    """Steps between two measures of the gradients' norms."""
    decay: Fraction = 0.6
    """Factor of the running averages, per measure."""
    measures: PositiveInt = 2
    """Measures before the pairs are switched on."""


class Unbalanced(Settings):
    kind: Literal["none"] = "none"


class Pairs(Settings):
    """The T x S pair losses, all in one: minus a Gaussian lower bound of each pair's mutual information."""

    strength: PositiveFloat = 3.0
    """beta: what multiplies the weighted sum of pair losses in the inner loss."""
    variance: Annotated[LearnedVariance | FixedVariance, Field(discriminator="kind")] = LearnedVariance()
    regressor_lr: PositiveFloat = 1e-2
    """Learning rate of regressors and variances (Adam, at unit weight)."""
    balance: Annotated[GradientBalanced | Unbalanced, Field(discriminator="kind")] = GradientBalanced()
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


class RandomPoint(Settings):
    """A uniformly random point of the simplex, drawn from the trial's seed."""

    kind: Literal["random"] = "random"


class FixedMatrix(Settings):
    kind: Literal["fixed"] = "fixed"
    matrix: Matrix
    """T rows of S numbers, not negative; brought to sum 1."""


class ReplayedMatrices(Settings):
    """A recorded trajectory, one matrix an epoch."""

    kind: Literal["replay"] = "replay"
    matrices: Annotated[tuple[Matrix, ...], Field(min_length=1)]


class CrossLayerAttention(Settings):
    """SemCKD's attention, learned from the training loss for each example."""

    kind: Literal["attention"] = "attention"
    lr: PositiveFloat = 1e-3
    factor: PositiveInt = 4


class OneStepDirection(Settings):
    kind: Literal["one_step"] = "one_step"


class DiagonalFisherDirection(Settings):
    kind: Literal["diagonal_fisher"] = "diagonal_fisher"
    decay: Fraction = 0.98
    damping: PositiveFloat = 1e-4


class LearnedWeights(Settings):
    """lambda learned inside the trial by hypergradient on the outer split."""

    kind: Literal["learned"] = "learned"
    direction: Annotated[OneStepDirection | DiagonalFisherDirection, Field(discriminator="kind")] = OneStepDirection()
    outer_objective: Literal["task", "task_and_pairs"] = "task"
    outer_batch: PositiveInt = 256
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

    @model_validator(mode="after")
    def _some_steps_left(self) -> "LearnedWeights":
        if self.warmup + self.hold >= 1:
            raise ValueError(f"warmup {self.warmup} and hold {self.hold} leave no step to learn in; their sum must be below 1")
        return self


Weighting = Annotated[
    NoPairs | Uniform | SameDepth | OnePair | RandomPoint | FixedMatrix | ReplayedMatrices | CrossLayerAttention | LearnedWeights,
    Field(discriminator="kind"),
]


class TrialConfig(Settings):
    """Everything that one trial depends on: the same configuration gives the same trial."""

    data: Data
    splits: SplitSizes
    teacher: Teacher
    student: Student
    training: Training
    kd: Distillation = Distillation()
    pairs: Pairs = Pairs()
    weighting: Weighting = LearnedWeights()
    seed: NonNegativeInt = 0
    """Of the student's start, the order of batches and all that is random in the trial; the splits have their own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
