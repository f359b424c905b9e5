"""The bilevel problem of a training loop of one's own: the steps of a trial, on batches that the loop gives."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from kd_hpo.config.pairs import Pairs
from kd_hpo.config.training import Points, WarmUp, factor_of
from kd_hpo.core.objective import Objective
from kd_hpo.core.pairs import Targets
from kd_hpo.core.plan import Size
from kd_hpo.data.augment import View
from kd_hpo.distiller.networks import LoopPrecision
from kd_hpo.distiller.processes import Processes
from kd_hpo.errors import ConfigError
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.inputs import examples_in, plain, tensors_of
from kd_hpo.nets.teacher_view import TeacherView
from kd_hpo.trial.learning import parts_of
from kd_hpo.trial.passes import look
from kd_hpo.trial.problem import OuterPart, PairState, Seen
from kd_hpo.trial.schedule import Schedule, StepPlan

Batch = tuple[Any, Any]
"""Inputs of the networks, and labels as the loop's own loss takes them."""
TaskLoss = Callable[[Tensor, Any], Tensor]
"""(output (B, K), labels) -> (), the mean over the batch: the loop's own loss."""


@dataclass(frozen=True)
class GivenLoss:
    """The loop's own loss as a task's."""

    given: TaskLoss | None

    def loss(self, output: Tensor, labels: Any) -> Tensor:
        assert self.given is not None  # those who ask for it need one
        return self.given(output, labels)


@dataclass(frozen=True)
class Asked:
    """The teacher's answers for inputs x."""

    teacher: TeacherView
    x: Any

    def logits(self) -> Tensor:
        return self.teacher.read_logits(self.x)

    def targets(self, sizes: Collection[Size], compared: int | None = None) -> Targets:
        return self.teacher.read(self.x, sizes, compared)


@dataclass
class LoopProblem:
    """A student in a training loop of one's own, as `kd_hpo.trial.problem.BilevelProblem` has it."""

    whole_objective: Objective
    """With the weights that the settings give; `objective` has those of the epoch."""
    schedule: Schedule
    student: FeatureTap
    run: Callable[[Any], tuple[Tensor, list[Tensor]]]
    """What runs the student in the step itself: compiled, or in DistributedDataParallel, where its owner has it so."""
    teacher: TeacherView
    pairs: PairState | None
    pair_settings: Pairs
    kd_schedule: WarmUp | Points | None
    """What multiplies the weight of the logits from epoch to epoch; None where nothing does."""
    seed: int
    precision: LoopPrecision
    processes: Processes
    given_optimizer: Optimizer | None
    fresh: Callable[[int, int], Batch] | None
    step: int = 0
    epoch: int = 0
    lost: int | None = None
    outer: Batch | None = None
    """The outer batch of this step."""
    examples: int = 0
    """In a training batch."""
    hypergradient_time: AbstractContextManager[object] = field(default_factory=nullcontext)

    @property
    def objective(self) -> Objective:
        whole = self.whole_objective
        return replace(whole, logit_weight=whole.logit_weight * self._factor(self.kd_schedule))

    @property
    def strength(self) -> float:
        return self.pair_settings.strength * self._factor(self.pair_settings.schedule)

    def _factor(self, schedule: WarmUp | Points | None) -> float:
        return factor_of(schedule, self.epoch, of=self.epoch + 1)  # counted in epochs, which `distilling` sees to

    @property
    def clip_norm(self) -> float | None:
        return None  # the loop's own affair

    @property
    def optimizer(self) -> Optimizer:
        assert self.given_optimizer is not None  # those who ask for it need one
        return self.given_optimizer

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.student.named_parameters() if p.requires_grad}

    def plain_pass(self, x: Any) -> tuple[Tensor, list[Tensor]]:
        return self.run(x)

    def seen(self, batch: Batch, due: StepPlan) -> Seen:
        """A batch of the loop, without a look back to the student."""
        x, labels = plain(batch[0]), batch[1]
        return look(self, View(x, labels, labels, 1.0), Asked(self.teacher, x), due, None)

    def fresh_batch(self, step: int, number: int, due: StepPlan) -> Seen:
        assert self.fresh is not None  # directions that ask for it need one
        return self.seen(self.fresh(step, number), due)

    def outer_parts(self) -> list[OuterPart]:
        if self.outer is None:
            raise ConfigError(
                f"step {self.step} looks at the outer batch, and was given none: call the distiller with outer=(inputs, labels) "
                "of held-out data where its `wants_outer` is true, or with a function that returns them at every step"
            )
        x, labels = plain(self.outer[0]), self.outer[1]
        count = examples_in(x)
        parts, found = parts_of(count, self.examples), list[OuterPart]()
        if parts > 1 and not tensors_of(labels):
            raise ConfigError(
                f"the outer batch has {count} examples, which go through the student {self.examples} at a time, and labels that "
                "are no tensors cannot be cut so; give tensors, or no more examples than a training batch has"
            )
        for number in range(parts):
            at = torch.arange(count).tensor_split(parts)[number]
            view_x, own = (_rows(each, at) for each in (x, labels))
            found.append(OuterPart(len(at) / count, View(view_x, own, own, 1.0), Asked(self.teacher, view_x)))
        return found

    def averaged(self, tensor: Tensor) -> Tensor:
        return self.processes.mean(tensor)


def _rows(batch: Any, at: Tensor) -> Any:
    first, last = int(at[0]), int(at[-1]) + 1
    return tree_map(lambda each: each[first:last] if isinstance(each, Tensor) and each.dim() else each, plain(batch))
