"""What a trial minimises: the one inner loss, and the outer one that lambda is learned on.

    L_in = omega L_task + kappa L_logits + beta sum_ts lambda_ts scale_ts D_ts

It is made once, from a task, a logit loss and the pairs, and is called by the step, by the Hessian products of the directions
and by the outer loss: what is added to one of them is in all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from kd_hpo.core.logit_losses import LogitLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.tasks import TaskLoss, training_loss

MatrixOf = Callable[[list[Tensor], Targets], Tensor]
"""(features, targets) -> D (T, S)"""


class Labelled(Protocol):
    """A batch as training sees it."""

    @property
    def labels(self) -> Tensor: ...

    def over_labels(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of the labels (B,); where images are mixed, of both images' labels, with their shares."""
        ...


@dataclass(frozen=True)
class PairTerm:
    """The term beta sum_ts lambda_ts scale_ts D_ts on one batch, from its weights beta lambda scale.

    differentiated  (), whose gradient in the student is that of the term
    value           (), the term itself
    matrix          (T, S), what each pair has in it
    """

    differentiated: Tensor
    value: Tensor
    matrix: Tensor

    @classmethod
    def as_written(cls, losses: MatrixOf, features: list[Tensor], targets: Targets, weights: Tensor) -> "PairTerm":
        """The weighted sum as it stands, for derivatives of its gradient; weights are (T, S)."""
        matrix = weights * losses(features, targets)
        term = matrix.sum()
        return cls(term, term.detach(), matrix.detach())

    @classmethod
    def of_step(
        cls,
        losses: PairMatrix,
        features: Sequence[Tensor],
        targets: Targets,
        weights: Tensor,
        needed: Tensor | None,
        *,
        unit: bool = True,
    ) -> "PairTerm":
        """The term for a step, which trains the regressors at unit weight, so that none starves; else as the term has them.

        weights  (T, S), or (B', T, S) for each example; the term trains weights that carry a gradient too
        needed   (T, S), as in PairMatrix
        """
        scaled = weights.detach() if unit else None
        if weights.dim() == 2:
            matrix = losses(features, targets, scaled, needed)
            weighted = weights * (matrix.detach() if unit else matrix)
            unweighted, value = matrix.sum(), weighted.sum()
        else:
            matrix = losses.sample_losses(features, targets, scaled)
            weighted = weights * (matrix.detach() if unit else matrix)
            unweighted, value = matrix.mean(0).sum(), weighted.sum((1, 2)).mean()
        of_pairs = weighted.detach() if weights.dim() == 2 else weighted.detach().mean(0)
        if not unit:
            return cls(value, value.detach(), of_pairs)
        return cls(unweighted + value if weights.requires_grad else unweighted, value.detach(), of_pairs)


@dataclass(frozen=True)
class Teaching:
    """What the teacher adds to the inner loss on one batch: its terms before their weights, each ()."""

    logits: Tensor
    pairs: Tensor
    differentiated: list[Tensor]
    """Of the terms that there are, what is differentiated, with their weights."""
    matrix: Tensor | None = None
    """(T, S), what each pair has in the term of the pairs; None where there is no such term."""


@dataclass(frozen=True)
class InnerLoss:
    """The inner loss on one batch, and its terms before their weights, each ()."""

    task: Tensor
    logits: Tensor
    pairs: Tensor
    total: Tensor
    """What is differentiated."""


@dataclass(frozen=True)
class Objective:
    """The losses of a trial's networks.

    logit_weight  kappa; at 0 the logits are not compared
    task_weight   of the task's loss in the inner one, where the logits are compared; else that has weight 1
    smoothing     the share of a label that is spread over all classes, in the inner loss alone
    """

    task: TaskLoss
    logit_loss: LogitLoss
    logit_weight: float
    task_weight: float = 1.0
    smoothing: float = 0.0

    def inner(
        self, output: Tensor, seen: Labelled, teacher: Tensor | None, pairs: Callable[[], PairTerm] | None, *, labels: bool = True
    ) -> InnerLoss:
        """The inner loss of the student's output (B, K) on a batch.

        teacher  (B, K), the teacher's output; None where its output is not compared
        pairs    gives the term of the pairs, asked after the others; None where there are none
        labels   False leaves the task and the logits out of the total: the pairs alone
        """
        task = self.task_loss(output, seen)
        teaching = self.teaching(output, seen, teacher if labels else None, pairs)
        weighted = self.task_weight != 1 and self.logit_weight and teacher is not None
        own = [self.task_weight * task if weighted else task] if labels else []
        first, *others = [*own, *teaching.differentiated]
        return InnerLoss(task.detach(), teaching.logits, teaching.pairs, sum(others, first))

    def teaching(self, output: Tensor, seen: Labelled, teacher: Tensor | None, pairs: Callable[[], PairTerm] | None) -> Teaching:
        """The part of the inner loss that is the teacher's; the arguments are those of `inner`."""
        logits = value = torch.zeros((), device=output.device)
        terms, matrix = list[Tensor](), None
        if self.logit_weight and teacher is not None:
            logits = self.agreement(output, seen, teacher)
            terms.append(self.logit_weight * logits)
        if pairs is not None:
            term = pairs()
            value, matrix = term.value, term.matrix
            terms.append(term.differentiated)
        return Teaching(logits.detach(), value, terms, matrix)

    def outer(self, output: Tensor, seen: Labelled, teacher: Tensor | None) -> Tensor:
        """The outer loss at fixed pairs, (): that of the labels and, where the teacher is given, agreement with its output."""
        task = seen.over_labels(partial(self.task.loss, output))
        return task if teacher is None else task + self.agreement(output, seen, teacher)

    def task_loss(self, output: Tensor, seen: Labelled) -> Tensor:
        """The task's part of the inner loss, the mean over the batch, ()."""
        return seen.over_labels(partial(training_loss(self.task, self.smoothing), output))

    def agreement(self, output: Tensor, seen: Labelled, teacher: Tensor) -> Tensor:
        """The logit loss, the mean over the batch, ()."""

        def loss(labels: Tensor) -> Tensor:
            return self.logit_loss(output, teacher.to(output), labels).mean()

        return seen.over_labels(loss) if self.logit_loss.reads_labels else loss(seen.labels)
