"""What changes while a trial runs, and its state for a checkpoint."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_hpo.config.pairs import Pairs
from kd_hpo.config.training import factor_of
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.objective import Objective
from kd_hpo.core.pairs import Targets
from kd_hpo.core.plan import Size
from kd_hpo.data.augment import Step, View, view
from kd_hpo.data.batches import ImageBatches, Indices, drawn_batch
from kd_hpo.data.teacher_targets import TeacherTargets
from kd_hpo.nets.features import FeatureTap
from kd_hpo.trial.average import Average
from kd_hpo.trial.checkpoint import require_alike, require_fitting
from kd_hpo.trial.data import steps_of
from kd_hpo.trial.learning import parts_of
from kd_hpo.trial.optimizers import RateSchedule, build_optimizer, build_schedule
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.passes import compiled_pass, look, remember
from kd_hpo.trial.problem import OuterPart, PairState, Seen
from kd_hpo.trial.randomness import HESSIAN, NEGATIVES, OUTER, VIEW, generator, random_state, set_random_state
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
    def precision(self) -> ImageBatches:
        return self.prepared.batches

    @property
    def objective(self) -> Objective:
        """The objective with the weights of this epoch."""
        weight = self.config.kd.weight * factor_of(self.config.kd.schedule, self.epoch, self.config.training.epochs)
        return replace(self.whole_objective, logit_weight=weight)

    @property
    def strength(self) -> float:
        return self.config.pairs.strength * factor_of(self.config.pairs.schedule, self.epoch, self.config.training.epochs)

    @property
    def clip_norm(self) -> float | None:
        return self.config.training.clip_norm

    def as_scored(self) -> AbstractContextManager[None]:
        """Inside, the student has the weights that are scored and written: its average's, where one is kept."""
        return self.average.standing_in() if self.average else nullcontext()

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
        view = self.view_of(batch)
        seen = look(self, view, Asked(self.prepared.targets, batch, view.x), due, before)
        return replace(seen, targets=self._with_memory(seen.targets, batch, view)) if seen.targets else seen

    def _with_memory(self, targets: Targets, batch: Indices, view: View) -> Targets:
        """The targets with where the images and some of other classes stand in the memory, where a pair has one."""
        pairs = self.pairs
        if pairs is None or pairs.memory is None or pairs.losses.memory is None:
            return targets
        chance, count = generator(self.config.seed, NEGATIVES, self.step), targets.compared
        negatives = pairs.memory.of_other_classes(view.labels[:count], pairs.losses.memory.negatives, chance)
        rows = torch.from_numpy(pairs.memory.rows(batch[:count]))
        return replace(targets, rows=rows.to(self.device), negatives=negatives.to(self.device))

    def view_of(self, batch: Indices) -> View:
        """The images as training sees them at this step."""
        plain = self.plain_view(batch)
        if self.prepared.batches.views is not None:  # `viewed` has chosen one
            return plain
        return view(plain.x, plain.labels, self.augment, generator(self.config.seed, VIEW, self.step))

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
