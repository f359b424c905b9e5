"""What changes while a trial runs, and its state for a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_hpo.config import pairs as settings
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.attention import CrossLayerAttention
from kd_hpo.core.balance import GradientBalance, NoBalance
from kd_hpo.core.directions import DIRECTIONS, Direction, Params
from kd_hpo.core.pair_losses import PairLoss, pair_loss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import PairPlan
from kd_hpo.core.simplex import SIMPLEX_UPDATES
from kd_hpo.core.weightings import (
    CONSTANT_WEIGHTINGS,
    Constant,
    InformationFlow,
    Learned,
    Replay,
    Weighting,
    one_pair,
    random_point,
    selected_pair,
)
from kd_hpo.data.augment import View, view
from kd_hpo.data.batches import Indices
from kd_hpo.errors import ConfigError, DataError, FeatureMismatch
from kd_hpo.nets.features import FeatureTap
from kd_hpo.trial.optimizers import build_optimizer, build_schedule
from kd_hpo.trial.prepare import Prepared, student_tap
from kd_hpo.trial.randomness import REGRESSORS, SHUFFLE, VIEW, WEIGHTING, generator, random_state, set_random_state
from kd_hpo.trial.result import EpochRecord


@dataclass
class PairState:
    """The pairs of a trial: their losses, how they are weighted, and how weights are learned, where they are."""

    losses: PairMatrix
    served: Tensor
    """(T, S): 1 for the pairs that the loss can compare, 0 for those that are left out."""
    weighting: Weighting
    balance: GradientBalance | NoBalance
    optimizer: Optimizer
    attention: CrossLayerAttention | None = None
    direction: Direction | None = None
    held_sum: Tensor = field(default_factory=lambda: torch.zeros(0))
    held_epochs: int = 0
    attention_sum: Tensor = field(default_factory=lambda: torch.zeros(0))
    """Of attention's weights, over the batches of the epoch."""

    def weights(self, epoch: int) -> Tensor:
        """(T, S), sum 1 over the pairs that the loss serves; 0 elsewhere."""
        weights = self.weighting.weights(epoch) * self.served
        return weights / weights.sum()

    def take_attention_mean(self) -> Tensor:
        """(T, S), the mean of attention's weights since the last call."""
        mean = self.attention_sum / self.attention_sum.sum()
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
    optimizer: Optimizer
    schedule: LRScheduler
    pairs: PairState | None
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    records: list[EpochRecord] = field(default_factory=list)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.training.epochs

    @property
    def device(self) -> torch.device:
        return self.prepared.batches.device

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.student.named_parameters())

    def buffers(self) -> Params:
        """Copies of the student's buffers, for evaluations that must not move them."""
        return {name: buffer.clone() for name, buffer in self.student.named_buffers()}

    def view(self, batch: Indices) -> View:
        """The images as training sees them at this step."""
        x, labels = self.prepared.batches.inputs(batch), self.prepared.batches.labels(batch)
        return view(x, labels, self.config.augment, generator(self.config.seed, VIEW, self.step))

    def pair_targets(self, targets: Targets) -> Targets:
        """What the pairs compare with: where the targets are shuffled, each example gets another one's."""
        if self.config.pairs.targets == "teacher":
            return targets
        order = torch.randperm(len(targets.logits), generator=generator(self.config.seed, SHUFFLE, self.step))
        order = order.to(targets.logits.device)
        return Targets(targets.logits[order], {size: block[order] for size, block in targets.blocks.items()})

    @property
    def stage(self) -> Literal["all", "pairs", "task"]:
        """Which losses this step has: all, the pairs alone, or labels and KD without pairs."""
        stages = self.config.pairs.stages
        if self.pairs is None:
            return "task"
        if not isinstance(stages, settings.PairsFirst):
            return "all"
        return "pairs" if self.step < stages.share * self.total_steps else "task"

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
        self.step, self.epoch = state["step"], state["epoch"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.pairs:
            for name, part in self.pairs.modules().items():
                part.load_state_dict(state["pairs"][name])
            self.pairs.held_sum, self.pairs.held_epochs = state["held"]
        set_random_state(state["random"])
        self.records = [EpochRecord.model_validate_json(record) for record in state["records"]]


def start_trial(config: TrialConfig, prepared: Prepared) -> Trial:
    """A trial at step 0. Seeds torch's global generator, which a network's dropout reads."""
    steps = len(prepared.splits.train) // config.training.batch_size
    if not steps:
        raise DataError(
            f"the train split has {len(prepared.splits.train)} images, less than one batch of {config.training.batch_size}; "
            "make training.batch_size smaller or splits.train larger"
        )
    torch.manual_seed(config.seed)
    student = student_tap(config, prepared.batches)
    student.train()
    optimizer = build_optimizer(config.training.optimizer, student.parameters())
    schedule = build_schedule(config.training.lr_schedule, optimizer, steps * config.training.epochs)
    pairs = None if isinstance(config.weighting, settings.NoPairs) else start_pairs(config, prepared)
    return Trial(config, prepared, student, optimizer, schedule, pairs, steps)


def start_pairs(config: TrialConfig, prepared: Prepared) -> PairState:
    plan, device = prepared.plan, prepared.batches.device
    loss = pair_loss(config.pairs.loss.kind, **config.pairs.loss.arguments())
    served = served_pairs(loss, plan, config.pairs)
    losses = PairMatrix(plan, loss, temperature=config.kd.temperature, generator=generator(config.seed, REGRESSORS)).to(device)
    groups: list[dict[str, Any]] = [{"params": list(losses.parameters()), "lr": config.pairs.regressor_lr}]
    attention = None
    if isinstance(config.weighting, settings.CrossLayerAttention):
        attention = CrossLayerAttention(
            plan.shape, config.training.batch_size, factor=config.weighting.factor, generator=generator(config.seed, WEIGHTING)
        ).to(device)
        groups.append({"params": list(attention.parameters()), "lr": config.weighting.lr})
    balance: GradientBalance | NoBalance = NoBalance(plan.shape)
    if isinstance(config.pairs.balance, settings.GradientBalanced):
        balance = GradientBalance(plan.shape, decay=config.pairs.balance.decay, measures=config.pairs.balance.measures)
    direction = None
    if isinstance(config.weighting, settings.LearnedWeights):
        direction = DIRECTIONS[config.weighting.direction.kind](**config.weighting.direction.model_dump(exclude={"kind"}))
    weighting = build_weighting(config, plan)
    return PairState(
        losses,
        served,
        weighting,
        balance,
        Adam(groups),
        attention,
        direction,
        torch.zeros(plan.shape),
        0,
        torch.zeros(plan.shape),
    )


def served_pairs(loss: PairLoss, plan: PairPlan, pairs: settings.Pairs) -> Tensor:
    """(T, S), 1 where the loss serves the pair. Raises FeatureMismatch where it does not and none may be left out."""
    T, S = plan.shape
    found = {(t, s): loss.serves(plan.teacher[t], plan.student[s], plan.target_size(t, s)) for t in range(T) for s in range(S)}
    reasons = {pair: reason for pair, reason in found.items() if reason and not (plan.logits_pair and pair == (T - 1, S - 1))}
    if reasons and pairs.unserved == "refuse":
        (t, s), reason = next(iter(reasons.items()))
        more = f" (and {len(reasons) - 1} more pairs)" if len(reasons) > 1 else ""
        raise FeatureMismatch(
            f"the loss {pairs.loss.kind} cannot compare teacher layer {plan.teacher[t]} with student layer {plan.student[s]}"
            f"{more}: {reason}. Leave these layers out, choose another pairs.loss, or set pairs.unserved: leave_out"
        )
    served = torch.ones(plan.shape)
    for pair in reasons:
        served[pair] = 0
    if not served.any():
        raise FeatureMismatch(f"the loss {pairs.loss.kind} can compare no pair of these layers; choose others or another loss")
    return served


def build_weighting(config: TrialConfig, plan: PairPlan) -> Weighting:
    """Raises ConfigError or FeatureMismatch where the settings do not fit the plan's T x S layers."""
    weighting, shape = config.weighting, plan.shape
    match weighting:
        case settings.LearnedWeights():
            update = SIMPLEX_UPDATES[weighting.update]
            return Learned(shape, update, step=weighting.step, average=weighting.average, mix=weighting.mix)
        case settings.OnePair(teacher=teacher, student=student):
            t = _position(teacher, [layer.name for layer in plan.teacher], "teacher")
            return Constant(one_pair(shape, t, _position(student, [layer.name for layer in plan.student], "student")))
        case settings.SelectedPair(pair=pair):
            return Constant(one_pair(shape, *selected_pair(plan, pair)))
        case settings.RandomPoint():
            return Constant(random_point(shape, generator(config.seed, WEIGHTING)))
        case settings.FixedMatrix(matrix=matrix):
            return Constant(_matrix(matrix, shape))
        case settings.ReplayedMatrices(matrices=matrices):
            return Replay([_matrix(matrix, shape) for matrix in matrices])
        case settings.InformationFlow(start=start, decay=decay):
            return InformationFlow(shape, start=start, decay=decay)
        case settings.CrossLayerAttention():  # its own weights stand in for these, batch by batch
            return Constant(CONSTANT_WEIGHTINGS["uniform"](shape))
        case _:
            return Constant(CONSTANT_WEIGHTINGS[weighting.kind](shape))


def _position(name: str, layers: list[str], whose: str) -> int:
    if name not in layers:
        raise FeatureMismatch(
            f"weighting.{whose} is {name!r}, which is not among the {whose} layers of the study: {', '.join(layers)}"
        )
    return layers.index(name)


def _matrix(matrix: settings.Matrix, shape: tuple[int, int]) -> Tensor:
    given = (len(matrix), *sorted({len(row) for row in matrix}))
    if given != shape or sum(map(sum, matrix)) <= 0:
        raise ConfigError(
            f"weighting has a matrix of {' x '.join(map(str, given))} with sum {sum(map(sum, matrix))}; "
            f"accepted is {shape[0]} rows (teacher layers) of {shape[1]} (student layers), not negative, with a sum above 0"
        )
    return torch.tensor(matrix)
