"""What changes while a trial runs, and its state for a checkpoint."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_hpo.config.pairs import Pairs
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.objective import Objective
from kd_hpo.core.pairs import Targets
from kd_hpo.core.plan import Size
from kd_hpo.data.augment import View, view
from kd_hpo.data.batches import ImageBatches, Indices, drawn_batch
from kd_hpo.data.teacher_targets import TeacherTargets
from kd_hpo.nets.features import FeatureTap
from kd_hpo.trial.checkpoint import require_alike, require_fitting
from kd_hpo.trial.learning import parts_of
from kd_hpo.trial.optimizers import build_optimizer, build_schedule
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.passes import compiled_pass, look, remember
from kd_hpo.trial.problem import OuterPart, PairState, Seen
from kd_hpo.trial.randomness import HESSIAN, OUTER, VIEW, generator, random_state, set_random_state
from kd_hpo.trial.result import EpochRecord
from kd_hpo.trial.schedule import Schedule, StepPlan
from kd_hpo.trial.stopwatch import Stopwatch


@dataclass(frozen=True)
class Asked:
    """The teacher's answers for views x of these images."""

    source: TeacherTargets
    images: Indices
    x: Tensor

    def logits(self) -> Tensor:
        return self.source.logits(self.images, self.x)

    def targets(self, sizes: Collection[Size], compared: int | None = None) -> Targets:
        return self.source.batch(self.images, self.x, sizes, compared)


@dataclass
class Trial:
    """A student in training. `step` counts inner steps, `epoch` the epochs completed."""

    config: TrialConfig
    prepared: Prepared
    objective: Objective
    schedule: Schedule
    student: FeatureTap
    pairs: PairState | None
    steps_per_epoch: int
    step: int = 0
    epoch: int = 0
    records: list[EpochRecord] = field(default_factory=list)
    lost: int | None = None
    """The first step whose hypergradient was not finite: lambda has not moved by it."""
    optimizer: Optimizer = field(init=False)
    """Of the student, in this stage."""
    lr_schedule: LRScheduler = field(init=False)
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
        steps = self.schedule.steps_of_stage(self.step)
        self.optimizer = build_optimizer(self.config.training.optimizer, self.student.parameters())
        self.lr_schedule = build_schedule(self.config.training.lr_schedule, self.optimizer, steps)

    @property
    def device(self) -> torch.device:
        return self.prepared.batches.device

    @property
    def precision(self) -> ImageBatches:
        return self.prepared.batches

    @property
    def pair_settings(self) -> Pairs:
        return self.config.pairs

    @property
    def seed(self) -> int:
        return self.config.seed

    def see(self, batch: Indices, due: StepPlan, *, remembers: bool) -> Seen:
        """The images as training sees them at this step, and as much of the teacher as the step's losses want.

        remembers  whether somebody looks back to the student as it is now
        """
        before = remember(self) if remembers else None
        seen = self.view_of(batch)
        return look(self, seen, Asked(self.prepared.targets, batch, seen.x), due, before)

    def view_of(self, batch: Indices) -> View:
        """The images as training sees them at this step."""
        plain = self.plain_view(batch)
        if self.prepared.batches.views is not None:  # `viewed` has chosen one
            return plain
        return view(plain.x, plain.labels, self.config.augment, generator(self.config.seed, VIEW, self.step))

    def plain_view(self, batch: Indices) -> View:
        """The images of a batch as they are."""
        labels = self.prepared.batches.labels(batch)
        return View(self.prepared.batches.inputs(batch), labels, labels, 1.0)

    def viewed(self, images: Indices) -> Indices:
        """The numbers of the images as they are seen in this epoch: of a view that is kept, where views are."""
        return self.prepared.batches.viewed(images, self.step // self.steps_per_epoch)

    def fresh_batch(self, step: int, number: int, due: StepPlan) -> Seen:
        training = self.config.training
        drawn = drawn_batch(self.prepared.splits.train, training.batch_size, self.config.seed, HESSIAN, step, number)
        return self.see(self.viewed(drawn), due, remembers=False)

    def outer_parts(self) -> list[OuterPart]:
        assert self.schedule.learning is not None
        batch = drawn_batch(self.prepared.splits.outer, self.schedule.learning.outer_batch, self.config.seed, OUTER, self.step)
        parts = np.array_split(batch, parts_of(len(batch), self.config.training.batch_size))
        views = ((part, self.plain_view(part)) for part in parts)
        return [OuterPart(len(part) / len(batch), v, Asked(self.prepared.targets, part, v.x)) for part, v in views]

    def averaged(self, tensor: Tensor) -> Tensor:
        return tensor

    def plain_pass(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return compiled_pass(self.compiled, x) if self.config.compile else self.student(x)

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
            "records": [record.model_dump_json() for record in self.records],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads a state; raises an error of nearly any type where `state_dict` could not have given it."""
        self.records = [EpochRecord.model_validate_json(record) for record in state["records"]]
        self.step, self.epoch = state["step"], state["epoch"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        require_fitting(self.optimizer)
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
