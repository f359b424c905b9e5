"""What changes while a trial runs, and its state for a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_hpo.config import pairs as settings
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.attention import CrossLayerAttention
from kd_hpo.core.balance import GradientBalance, NoBalance
from kd_hpo.core.directions import DIRECTIONS, Direction
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.params import Params
from kd_hpo.core.weightings import Weighting
from kd_hpo.data.augment import View, view
from kd_hpo.data.batches import Indices
from kd_hpo.data.splits import Splits
from kd_hpo.errors import DataError
from kd_hpo.nets.features import FeatureTap
from kd_hpo.trial.optimizers import build_optimizer, build_schedule
from kd_hpo.trial.prepare import Prepared, build_student, layers_of
from kd_hpo.trial.randomness import REGRESSORS, SHUFFLE, VIEW, WEIGHTING, generator, random_state, set_random_state
from kd_hpo.trial.result import EpochRecord
from kd_hpo.trial.stopwatch import Stopwatch
from kd_hpo.trial.weighting import build_weighting, served_pairs


@dataclass
class PairState:
    """The pairs of a trial: their losses, how they are weighted, and how weights are learned, where they are."""

    losses: PairMatrix
    weighting: Weighting
    balance: GradientBalance | NoBalance
    optimizer: Optimizer
    attention: CrossLayerAttention | None = None
    direction: Direction | None = None
    held_epochs: int = 0
    held_sum: Tensor = field(init=False)
    attention_sum: Tensor = field(init=False)
    """Of attention's weights, over the batches of the epoch."""

    def __post_init__(self) -> None:
        self.held_sum, self.attention_sum = (torch.zeros(self.losses.plan.shape) for _ in range(2))

    def take_attention_mean(self) -> Tensor:
        """(T, S), the mean of attention's weights since the last call; zeros where no step had pairs."""
        mean = self.attention_sum / self.attention_sum.sum().clamp_min(torch.finfo(torch.float32).tiny)
        self.attention_sum = torch.zeros_like(mean)
        return mean

    def modules(self) -> Mapping[str, Any]:
        parts = {"losses": self.losses, "weighting": self.weighting, "balance": self.balance, "optimizer": self.optimizer}
        if self.attention is not None:
            parts["attention"] = self.attention
        if self.direction is not None:
            parts["direction"] = self.direction
        return parts


@dataclass
class Trial:
    """A student in training. `step` counts inner steps, `epoch` the epochs completed."""

    config: TrialConfig
    prepared: Prepared
    student: FeatureTap
    pairs: PairState | None
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    records: list[EpochRecord] = field(default_factory=list)
    optimizer: Optimizer = field(init=False)
    """Of the student, in this stage."""
    schedule: LRScheduler = field(init=False)
    hypergradient_time: Stopwatch = field(init=False)
    compiled: Callable[..., Any] = field(init=False)
    """The student, compiled at its first call where the trial asks for that."""

    def __post_init__(self) -> None:
        self.hypergradient_time = Stopwatch(self.device)
        self.compiled = self.student
        if self.config.compile:  # whole: a part left out would be a silent fallback
            self.compiled = torch.compile(self.student, fullgraph=True, dynamic=False)
        self.start_stage()

    def start_stage(self) -> None:
        """The student's optimiser without any state, and the whole learning-rate schedule over the steps of the stage."""
        steps = self.steps_of_pairs if self.stage == "pairs" else self.total_steps - self.steps_of_pairs
        self.optimizer = build_optimizer(self.config.training.optimizer, self.student.parameters())
        self.schedule = build_schedule(self.config.training.lr_schedule, self.optimizer, steps)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.training.epochs

    @property
    def device(self) -> torch.device:
        return self.prepared.batches.device

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those of the student that are trained: a network of one's own may have frozen others."""
        return {name: p for name, p in self.student.named_parameters() if p.requires_grad}

    def buffers(self) -> Params:
        """Copies of the student's buffers, for evaluations that must not move them."""
        return {name: buffer.clone() for name, buffer in self.student.named_buffers()}

    def view(self, batch: Indices) -> View:
        """The images as training sees them at this step."""
        x, labels = self.prepared.batches.inputs(batch), self.prepared.batches.labels(batch)
        if self.prepared.batches.views is not None:  # `viewed` has chosen one
            return view(x, labels, (), torch.Generator())
        return view(x, labels, self.config.augment, generator(self.config.seed, VIEW, self.step))

    def viewed(self, images: Indices) -> Indices:
        """The numbers of the images as they are seen in this epoch: of a view that is kept, where views are."""
        return self.prepared.batches.viewed(images, self.step // self.steps_per_epoch)

    def pair_targets(self, targets: Targets) -> Targets:
        """What the pairs compare with: where the targets are shuffled, each example gets another one's."""
        if self.config.pairs.targets == "teacher":
            return targets

        def shuffled(rows: Tensor) -> Tensor:
            order = torch.randperm(len(rows), generator=generator(self.config.seed, SHUFFLE, self.step))
            return rows[order.to(rows.device)]

        return Targets(shuffled(targets.logits), {size: shuffled(block) for size, block in targets.blocks.items()})

    @property
    def steps_of_pairs(self) -> int:
        """How many steps, from the first one, have the pairs alone."""
        stages = self.config.pairs.stages
        return ceil(stages.share * self.total_steps) if self.pairs and isinstance(stages, settings.PairsFirst) else 0

    @property
    def stage(self) -> Literal["all", "pairs", "task"]:
        """Which losses this step has: all, the pairs alone, or labels and KD without pairs."""
        if self.step < self.steps_of_pairs:
            return "pairs"
        return "task" if self.pairs is None or self.steps_of_pairs else "all"

    def state_dict(self) -> dict[str, Any]:
        pairs = self.pairs
        return {
            "step": self.step,
            "epoch": self.epoch,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "pairs": {name: part.state_dict() for name, part in pairs.modules().items()} if pairs else {},
            "held": (pairs.held_sum, pairs.held_epochs) if pairs else (),
            "random": random_state(),
            "records": [record.model_dump_json() for record in self.records],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises an error of nearly any type where the state is not one that `state_dict` could have given."""
        self.records = [EpochRecord.model_validate_json(record) for record in state["records"]]
        self.step, self.epoch = state["step"], state["epoch"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        require_fitting(self.optimizer)
        self.schedule.load_state_dict(state["schedule"])
        if self.pairs:
            for name, part in self.pairs.modules().items():
                require_alike(state["pairs"][name], part.state_dict())
                part.load_state_dict(state["pairs"][name])
            require_fitting(self.pairs.optimizer)
            held, count = state["held"]
            require_alike({"held": held}, {"held": self.pairs.held_sum})
            self.pairs.held_sum, self.pairs.held_epochs = held, int(count)
        set_random_state(state["random"])


def require_end_of_epoch(trial: Trial) -> None:
    """Raises ValueError where the steps are not those of the epochs that are recorded, as they are in a checkpoint."""
    expected = len(trial.records) * trial.steps_per_epoch, len(trial.records)
    if (trial.step, trial.epoch) != expected or trial.epoch > trial.config.training.epochs:
        raise ValueError(f"step {trial.step} and epoch {trial.epoch} after {len(trial.records)} epochs")


def require_alike(state: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Raises ValueError unless the tensors of a fresh part are there, as large and of the same type."""
    for name, tensor in fresh.items():
        if isinstance(tensor, Tensor) and (state[name].shape, state[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} is {tuple(state[name].shape)} of {state[name].dtype}, not {tuple(tensor.shape)}")


def require_fitting(optimizer: Optimizer) -> None:
    """Raises ValueError where what an optimiser keeps of a parameter is not as large as that, which it does not see itself."""
    for parameter, kept in optimizer.state.items():
        wrong = [name for name, value in kept.items() if isinstance(value, Tensor) and value.shape not in ((), parameter.shape)]
        if wrong:
            raise ValueError(f"{wrong[0]} of the optimiser is {tuple(kept[wrong[0]].shape)}, not {tuple(parameter.shape)}")


def start_trial(config: TrialConfig, prepared: Prepared) -> Trial:
    """A trial at step 0. Seeds torch's global generator, which a network's dropout reads."""
    steps = steps_per_epoch(config, prepared.splits)
    torch.manual_seed(config.seed)
    if config.compile:
        torch.compiler.reset()  # of the trials before this one in the process; there is a limit to what is kept
    network = build_student(config, prepared.batches, prepared.cache)
    student = FeatureTap(network, layers_of(config, config.student.layers, network, prepared.batches))
    student.train()
    pairs = None if isinstance(config.weighting, settings.NoPairs) else start_pairs(config, prepared)
    return Trial(config, prepared, student, pairs, steps)


def steps_per_epoch(config: TrialConfig, splits: Splits) -> int:
    """Raises DataError where the train split is less than one batch."""
    steps = len(splits.train) // config.training.batch_size
    if not steps:
        raise DataError(
            f"the train split has {len(splits.train)} images, less than one batch of {config.training.batch_size}; "
            "make training.batch_size smaller or splits.train larger"
        )
    return steps


def compared_examples(config: TrialConfig, batch: int) -> int:
    """How many examples of a batch, its first ones, the pairs are compared on."""
    return ceil(config.pairs.batch_share * batch)


def start_pairs(config: TrialConfig, prepared: Prepared) -> PairState:
    plan, device = prepared.plan, prepared.batches.device
    loss = pair_loss(config.pairs.loss.kind, **config.pairs.loss.arguments())
    served = served_pairs(loss, plan, config.pairs)
    weighting = build_weighting(config, plan, served)
    plan = replace(plan, compared=frozenset((int(t), int(s)) for t, s in weighting.support().nonzero()))
    losses = PairMatrix(plan, loss, temperature=config.kd.temperature, generator=generator(config.seed, REGRESSORS)).to(device)
    groups: list[dict[str, Any]] = [{"params": list(losses.parameters()), "lr": config.pairs.regressor_lr}]
    attention = None
    if isinstance(config.weighting, settings.CrossLayerAttention):
        compared = compared_examples(config, config.training.batch_size)
        attention = CrossLayerAttention(
            served, compared, factor=config.weighting.factor, generator=generator(config.seed, WEIGHTING)
        ).to(device)
        groups.append({"params": list(attention.parameters()), "lr": config.weighting.lr})
    balance: GradientBalance | NoBalance = NoBalance(plan.shape)
    if isinstance(config.pairs.balance, settings.GradientBalanced):
        balance = GradientBalance(plan.shape, decay=config.pairs.balance.decay, measures=config.pairs.balance.measures)
    direction = None
    if isinstance(config.weighting, settings.LearnedWeights):
        direction = DIRECTIONS[config.weighting.direction.kind](**config.weighting.direction.model_dump(exclude={"kind"}))
    return PairState(losses, weighting, balance, Adam(groups, fused=True), attention, direction)
