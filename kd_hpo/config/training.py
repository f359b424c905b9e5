"""How a network is trained: optimiser, learning rate over the epochs, and what else a recipe has.

The trial's student and a teacher that is trained here take the same settings.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from kd_hpo.config.settings import Fraction, Key, Plain, Settings

Share = Annotated[float, Field(gt=0, lt=1)]
When = PositiveInt | Share
"""A number of epochs, or, below 1, a share of all of them."""


def absent(value: object) -> bool:
    """Whether a setting is not written down: settings without it are those of before there was one, and have their digests."""
    return value is None


NO_OPTIMIZERS = {
    "LBFGS": "evaluates the loss several times in a step, which a step of a trial does once",
    "SparseAdam": "is for sparse gradients, which no network here has",
    "Muon": "is for matrices alone, and networks have other parameters too",
    "adahessian": "needs second derivatives in each step, which a step of a trial does not take",
}
NO_SCHEDULES = {
    "LambdaLR": "is given functions, which a file does not have",
    "MultiplicativeLR": "is given functions, which a file does not have",
    "ReduceLROnPlateau": "follows a metric, and a rate here is known before the training",
    "ChainedScheduler": "is given other schedules; take one of them",
    "SequentialLR": "is given other schedules; multi_step, cosine and constant have a warmup",
}
"""What torch and timm have, and a trial cannot use, with the reasons."""


def _refusing(reasons: dict[str, str]) -> AfterValidator:
    """Refuses names of a library that a trial cannot use, each with its reason."""

    def checked(name: str) -> str:
        if name in reasons:
            raise ValueError(f"it should be another one: {name} {reasons[name]}")
        return name

    return AfterValidator(checked)


# ---- optimisers


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


class TorchOptimizer(Settings):
    """An optimiser of torch.optim by its name, such as RMSprop, NAdam or Adagrad.

    Directions that go back through the steps (one_step, unrolled, drmad, hyperdistill) know SGD, Adam, AdamW, NAdam, RAdam,
    Adamax, Adagrad and RMSprop, and refuse others.
    """

    kind: Literal["torch"] = "torch"
    name: Annotated[Key, _refusing(NO_OPTIMIZERS)]
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    arguments: dict[Key, Plain] = Field(default={})
    """What else it is called with: `{alpha: 0.9, momentum: 0.9}`."""


class TimmOptimizer(Settings):
    """An optimiser of timm by its name there, such as lamb or lion, where timm is installed.

    No direction can go back through its steps: those that would (one_step, unrolled, drmad, hyperdistill) refuse it.
    """

    kind: Literal["timm"] = "timm"
    name: Annotated[Key, _refusing(NO_OPTIMIZERS)]
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.0
    arguments: dict[Key, Plain] = Field(default={})
    """What else it is called with."""


Optimizer = Annotated[Sgd | Adam | AdamW | TorchOptimizer | TimmOptimizer, Field(discriminator="kind")]

# ---- the learning rate


class _WithWarmup(Settings):
    warmup: Literal[0] | When = 0
    """Epochs (below 1: the share of all) over which the rate rises first, step by step, in a line from next to nothing."""


class ConstantRate(_WithWarmup):
    """A rate that stays as it is."""

    kind: Literal["constant"] = "constant"


class MultiStep(_WithWarmup):
    """A rate that is multiplied at some epochs, as by 0.1 at 150, 180 and 210 of 240."""

    kind: Literal["multi_step"] = "multi_step"
    milestones: Annotated[tuple[When, ...], Field(min_length=1)]
    """The numbers of epochs after which it is multiplied; below 1, shares of all."""
    gamma: PositiveFloat = 0.1


class Cosine(_WithWarmup):
    """A rate that falls along half a cosine, after its warm-up, down to the floor."""

    kind: Literal["cosine"] = "cosine"
    floor: NonNegativeFloat = 0.0
    """The rate that it ends at."""


class OneCycle(Settings):
    """A rate that goes up and down in two halves of a cosine (Smith & Topin 2018), as torch's OneCycleLR has it."""

    kind: Literal["one_cycle"] = "one_cycle"
    rise: Share = 0.3
    """The share of the steps in which the rate rises."""
    start: Annotated[float, Field(gt=1)] = 25.0
    """What divides the rate at the start."""
    end: Annotated[float, Field(gt=1)] = 1e4
    """What divides the rate of the start at the end."""


class TorchSchedule(Settings):
    """A schedule of torch.optim.lr_scheduler by its name, such as StepLR, PolynomialLR or CyclicLR."""

    kind: Literal["torch"] = "torch"
    name: Annotated[Key, _refusing(NO_SCHEDULES)]
    arguments: dict[Key, Plain] = Field(default={})
    """What it is called with, beside the optimiser."""
    each: Literal["epoch", "step"] = "epoch"
    """What its own counts (step_size, T_max, ...) are of."""


Schedule = Annotated[ConstantRate | MultiStep | Cosine | OneCycle | TorchSchedule, Field(discriminator="kind")]

# ---- the rest of a recipe


class Ema(Settings):
    """A running average of the network's weights, and of the statistics of its batch norms.

    Where it is kept, it is the average that is scored on `val` and `outer` after each epoch, written to last.safetensors and
    best.safetensors, exported, and tested. The network that is trained goes on from its own weights, and lambda learns from it.
    """

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """What the average keeps of itself at a step."""
    warmup: bool = True
    """Whether it keeps less at first, (1 + n) / (10 + n) after n steps, so that the start is forgotten sooner."""


class Training(Settings):
    epochs: PositiveInt
    batch_size: PositiveInt = 128
    optimizer: Optimizer = Sgd()
    lr_schedule: Literal["one_cycle", "cosine", "constant"] | Schedule = "one_cycle"
    """By name, or with settings of its own: `{kind: multi_step, milestones: [150, 180, 210]}`, `{kind: cosine, warmup: 20}`. The
    rate moves after each step. Where the training has two stages (`pairs.stages`), each has the whole of it."""
    decayed: Annotated[Literal["matrices"] | None, Field(exclude_if=absent)] = None
    """matrices: weight decay leaves biases, the parameters of norms, and what the network's own `no_weight_decay()` names as they
    are; null: it acts on all."""
    clip_norm: Annotated[PositiveFloat | None, Field(exclude_if=absent)] = None
    """Where the gradient of all parameters together is longer than this, it is shortened to it. Directions that go back through
    the steps go back through that too."""
    label_smoothing: Annotated[float | None, Field(exclude_if=absent, gt=0, lt=1)] = None
    """The share of a label that is spread evenly over all classes in the training loss; the outer loss, and those on `val` and
    `outer`, have the labels as they are."""
    ema: Annotated[Ema | None, Field(exclude_if=absent)] = None
    """Keeps an average of the weights, which is then what is scored and exported; null scores and exports them as they are."""

    @model_validator(mode="after")
    def _within_the_epochs(self) -> "Training":
        schedule = self.lr_schedule
        if isinstance(schedule, _WithWarmup) and schedule.warmup >= self.epochs:
            raise ValueError(f"the warmup of {schedule.warmup} epochs should end before the training of {self.epochs} does")
        if isinstance(schedule, MultiStep):
            warmup = self.share(schedule.warmup)
            late = [m for m in schedule.milestones if not warmup < self.share(m) < 1]
            if late:
                raise ValueError(
                    f"the milestone {late[0]} should lie after the warmup and before the end of {self.epochs} epochs; below 1 it "
                    "is a share of them, which fits any number of epochs"
                )
        return self

    @property
    def words(self) -> str:
        """The recipe in a line, as people read it."""
        told = [f"{self.epochs} epochs, batches of {self.batch_size}, {getattr(self.optimizer, 'name', self.optimizer.kind)}"]
        told += [f"labels smoothed by {self.label_smoothing:g}"] if self.label_smoothing else []
        told += [f"gradients cut to {self.clip_norm:g}"] if self.clip_norm else []
        told += ["scored and exported as the average of its weights"] if self.ema else []
        return ", ".join(told)

    def share(self, when: float) -> float:
        """Gives the share of all epochs that a number of epochs, or a share itself, is."""
        return when if when < 1 else when / self.epochs


# ---- weights of losses


class WarmUp(Settings):
    """A weight that rises with the epochs: in epoch e, counted from 1, to e / epochs of itself (as DKD's, Zhao et al. 2022)."""

    kind: Literal["warm_up"] = "warm_up"
    epochs: When = 20
    """Below 1, a share of all epochs of the training, which fits a short one too."""

    def factor(self, epoch: int, of: int) -> float:
        """What multiplies the weight in an epoch, counted from 1, of so many."""
        return min(epoch / self.length(of), 1.0)

    def length(self, of: int) -> float:
        """The epochs that it takes in a training of so many."""
        return self.epochs * of if self.epochs < 1 else self.epochs

    def counted(self, of: int) -> "WarmUp":
        """The same in a training of so many epochs, its share as a number of them."""
        return WarmUp(epochs=max(round(self.length(of)), 1))


class Points(Settings):
    """A weight that is multiplied by given factors at some epochs, by straight lines between them, and by the ends' outside."""

    kind: Literal["points"] = "points"
    points: Annotated[tuple[tuple[NonNegativeInt, NonNegativeFloat], ...], Field(min_length=1)]
    """Pairs of an epoch, counted from 1, and a factor: `[[1, 1], [100, 1], [101, 0]]` switches it off after epoch 100."""

    @model_validator(mode="after")
    def _in_order(self) -> "Points":
        epochs = [epoch for epoch, _ in self.points]
        if sorted(set(epochs)) != epochs:
            raise ValueError(f"the epochs {epochs} should rise from point to point")
        return self

    def factor(self, epoch: int, of: int) -> float:
        """What multiplies the weight in an epoch, counted from 1, however many there are."""
        before = [point for point in self.points if point[0] <= epoch]
        after = [point for point in self.points if point[0] > epoch]
        if not before or not after:
            return (before or after)[-1 if before else 0][1]
        (start, low), (end, high) = before[-1], after[0]
        return low + (high - low) * (epoch - start) / (end - start)


WeightSchedule = Annotated[WarmUp | Points, Field(discriminator="kind")]


def factor_of(schedule: WarmUp | Points | None, epochs_done: int, of: int) -> float:
    """What multiplies a weight in the epoch after so many, of all there are; 1 without a schedule."""
    return 1.0 if schedule is None else schedule.factor(epochs_done + 1, of)
