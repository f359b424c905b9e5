"""A step of a distiller: what begins it, on a batch, and what ends it, after the step of the student's optimiser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kd_hpo.core.directions import InnerStep
from kd_hpo.data.augment import View
from kd_hpo.distiller.problem import Asked, Batch, LoopProblem
from kd_hpo.errors import ConfigError, Diverged
from kd_hpo.nets.inputs import examples_in
from kd_hpo.trial.balancing import measure_balance
from kd_hpo.trial.inner import inner_step
from kd_hpo.trial.learning import learn_weights
from kd_hpo.trial.pair_term import term_of_step
from kd_hpo.trial.passes import look, remember, resting_numbers, run_student
from kd_hpo.trial.schedule import StepPlan


@dataclass(frozen=True)
class Taught:
    """What a distiller gives of one batch of B examples.

    T and S count the layers of teacher and student, K their outputs. Tensors are on the student's device; what is told beside
    the loss carries no gradient of the teacher's, and the student's logits and features carry that of the student.
    """

    logits: Tensor
    """(B, K), the student's output, in the dtype of losses: for the loop's own loss."""
    loss: Tensor
    """(), to be added to that loss: kappa times the logit loss, and beta sum_ts lambda_ts scale_ts D_ts. Its gradient trains the
    regressors too, at unit weight."""
    features: list[Tensor]
    """Of the S student layers, as the network gives them."""
    teacher_logits: Tensor | None
    """(B, K); None where nothing compares them."""
    logit_loss: Tensor
    """(), before kappa; 0 where logits are not compared."""
    pair_losses: Tensor
    """(T, S), what each pair has in the loss: beta lambda scale D; it sums to their share of it."""


@dataclass(frozen=True)
class OpenStep:
    """A step that has begun, and that `step` ends."""

    due: StepPlan
    looked_at: InnerStep | None
    resting: Mapping[nn.Parameter, Tensor]
    has_pairs: bool


def teach(
    problem: LoopProblem, x: Any, labels: Any, outer: Batch | Callable[[], Batch] | None, *, begins: bool
) -> tuple[Taught, OpenStep]:
    """Runs both networks on a batch: w is as it will be stepped from, and what is due before that step is done.

    begins  whether the batch begins a step; what is due is done by the first batch of a step alone
    """
    view, asked = View(x, labels, labels, 1.0), Asked(problem.teacher, x)
    due = problem.schedule.at(problem.step)
    if not begins:
        due = replace(due, learns="", records=False, measures=False)
    seen = look(problem, view, asked, due, remember(problem) if due.remembers else None)
    if begins:
        problem.examples = examples_in(x)
    if due.measures:
        measure_balance(problem, seen, due)
    looked_at = inner_step(problem, seen, due) if due.looks else None
    if due.learns:
        problem.outer = outer() if callable(outer) else outer
    if problem.pairs and looked_at and due.learns == "before":
        learn_weights(problem, problem.pairs, looked_at, moves=due.moves)
    output, features = run_student(problem, x, {})
    resting = resting_numbers(problem, due)
    teaching = problem.objective.teaching(output, view, seen.teacher, term_of_step(problem, seen, features, due))
    trains = sum(teaching.differentiated, torch.zeros((), dtype=output.dtype, device=output.device))
    value = problem.objective.logit_weight * teaching.logits + teaching.pairs
    pairs = torch.zeros(problem.teacher.plan.shape) if teaching.matrix is None else teaching.matrix
    taught = Taught(output, trains - trains.detach() + value, features, seen.teacher, teaching.logits, pairs)
    return taught, OpenStep(due, looked_at, resting, seen.targets is not None)


def end_step(problem: LoopProblem, ended: OpenStep) -> None:
    """Trains the regressors, and moves lambda where it looks from after the student's step.

    Raises ConfigError where nothing was differentiated, Diverged where a hypergradient is not finite.
    """
    pairs = problem.pairs
    if pairs and ended.looked_at and pairs.direction:
        gradient = {name: p.grad.clone() for name, p in problem.parameters.items() if p.grad is not None}
        if not gradient:
            raise ConfigError(
                "no parameter of the student has a gradient: call step() after the optimiser's step and before zero_grad()"
            )
        taken = replace(ended.looked_at, gradient=gradient)
        if ended.due.records:
            pairs.direction.record(taken)
        if ended.due.learns == "after":
            learn_weights(problem, pairs, taken, moves=ended.due.moves)
    if pairs and ended.has_pairs:
        trained = [p for group in pairs.optimizer.param_groups for p in group["params"]]
        problem.processes.average_gradients(trained)
        if trained and all(p.grad is None for p in trained):
            raise ConfigError("no regressor has a gradient: add the distiller's loss to what backward() is called of")
        pairs.optimizer.step_but(ended.resting)  # only now: the hypergradient belongs to the regressors that the step used
        pairs.optimizer.zero_grad()
    if problem.lost is not None:
        raise Diverged(f"the hypergradient of lambda is not finite at step {problem.lost}; see whether your losses are")
    problem.step += 1
    problem.outer = None
