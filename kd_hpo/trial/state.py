"""What changes while a trial runs, and its state for a checkpoint."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_hpo.config.training import factor_of
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.balance import GradientBalance, NoBalance
from kd_hpo.core.derivatives import Derivatives
from kd_hpo.core.directions import Direction
from kd_hpo.core.objective import Objective
from kd_hpo.core.pairs import PairMatrix
from kd_hpo.core.resting_adam import RestingAdam
from kd_hpo.core.weightings import Weighting
from kd_hpo.data.augment import Step
from kd_hpo.nets.features import FeatureTap
from kd_hpo.trial.average import Average
from kd_hpo.trial.checkpoint import require_alike, require_fitting
from kd_hpo.trial.data import steps_of
from kd_hpo.trial.memory_rows import MemoryRows
from kd_hpo.trial.optimizers import RateSchedule, build_optimizer, build_schedule
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.randomness import random_state, set_random_state
from kd_hpo.trial.result import EpochRecord
from kd_hpo.trial.schedule import Schedule
from kd_hpo.trial.stopwatch import Stopwatch


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

    def modules(self) -> Mapping[str, Any]:
        parts = {"losses": self.losses, "weighting": self.weighting, "balance": self.balance, "optimizer": self.optimizer}
        return parts if self.direction is None else {**parts, "direction": self.direction}


@dataclass
class Trial:
    """A student in training. `step` counts inner steps, `epoch` the epochs completed."""

    config: TrialConfig
    prepared: Prepared
    whole_objective: Objective
    """With the weights that the settings give; `objective` has those of the epoch."""
    schedule: Schedule
    student: FeatureTap
    pairs: PairState | None
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    records: list[EpochRecord] = field(default_factory=list)
    lost: int | None = None
    """The first step whose hypergradient was not finite: lambda has not moved by it."""
    augment: list[Step] = field(init=False)
    """The steps of the random views that training sees."""
    optimizer: Optimizer = field(init=False)
    """Of the student, in this stage."""
    lr_schedule: RateSchedule = field(init=False)
    average: Average | None = field(init=False)
    """Of the student's weights, in this stage; None where the trial keeps none."""
    hypergradient_time: Stopwatch = field(init=False)
    compiled: Callable[..., Any] = field(init=False)
    """The student, compiled at its first call where the trial asks for that."""

    def __post_init__(self) -> None:
        self.hypergradient_time = Stopwatch(self.device)
        self.augment = steps_of(self.config.augment, self.prepared.batches)
        self.compiled = self.student
        if self.config.compile:  # whole: a part left out would be a silent fallback
            self.compiled = torch.compile(self.student, fullgraph=True, dynamic=False)
        self.start_stage()

    def start_stage(self) -> None:
        """The student's optimiser without any state, the whole schedule of its rate over the stage's steps, and a new average."""
        training = self.config.training
        self.optimizer = build_optimizer(training, self.student.network)
        self.lr_schedule = build_schedule(training, self.optimizer, self.schedule.steps_of_stage(self.step))
        self.average = Average(training.ema, self.student.network) if training.ema else None

    @property
    def device(self) -> torch.device:
        return self.prepared.batches.device

    @property
    def objective(self) -> Objective:
        """The objective with the weights of this epoch."""
        weight = self.config.kd.weight * factor_of(self.config.kd.schedule, self.epoch)
        return replace(self.whole_objective, logit_weight=weight)

    @property
    def strength(self) -> float:
        """What multiplies the pairs in this epoch: beta, without what lambda has learned of it."""
        return self.config.pairs.strength * factor_of(self.config.pairs.schedule, self.epoch)

    def as_scored(self) -> AbstractContextManager[None]:
        """Inside, the student has the weights that are scored and written: its average's, where one is kept."""
        return self.average.standing_in() if self.average else nullcontext()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the student that are trained: a network of one's own may have frozen others."""
        return {name: p for name, p in self.student.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        pairs = self.pairs
        return {
            "step": self.step,
            "epoch": self.epoch,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_schedule.state_dict(),
            "pairs": {name: part.state_dict() for name, part in pairs.modules().items()} if pairs else {},
            "held": (pairs.held_sum, pairs.held_epochs) if pairs else (),
            "random": random_state(),
            **({"average": self.average.state_dict()} if self.average else {}),
            "records": [record.model_dump_json() for record in self.records],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads a state; raises an error of nearly any type where `state_dict` could not have given it."""
        self.records = [EpochRecord.model_validate_json(record) for record in state["records"]]
        self.step, self.epoch = state["step"], state["epoch"]
        self.student.load_state_dict(state["student"])
        self.start_stage()
        self.optimizer.load_state_dict(state["optimizer"])
        require_fitting(self.optimizer)
        if self.average:
            self.average.load_state_dict(state["average"])
        self.lr_schedule.load_state_dict(state["schedule"])
        if self.pairs:
            for name, part in self.pairs.modules().items():
                require_alike(state["pairs"][name], part.state_dict())
                part.load_state_dict(state["pairs"][name])
            require_fitting(self.pairs.optimizer)
            held, count = state["held"]
            require_alike({"held": held}, {"held": self.pairs.held_sum})
            self.pairs.held_sum, self.pairs.held_epochs = held, int(count)
        set_random_state(state["random"])
