"""One step of the bilevel problem: the inner update of the student, the hypergradient, the update of the pair weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kd_hpo.data.batches import Indices
from kd_hpo.trial.balancing import measure_balance
from kd_hpo.trial.inner import inner_step
from kd_hpo.trial.learning import learn_weights
from kd_hpo.trial.optimizers import clip_gradients
from kd_hpo.trial.pair_term import term_of_step
from kd_hpo.trial.passes import as_targets, resting_numbers, run_student
from kd_hpo.trial.problem import Seen
from kd_hpo.trial.schedule import StepPlan
from kd_hpo.trial.state import Trial


@dataclass(frozen=True)
class StepLosses:
    """The terms of the inner loss on one batch, and the metric of the task's goal, each a number on the device."""

    task: Tensor
    kd: Tensor
    pairs: Tensor
    reached: Tensor

    def stacked(self) -> Tensor:
        """Stacks the numbers in their order: (4,)."""
        return torch.stack([each.to(self.task) for each in (self.task, self.kd, self.pairs, self.reached)])


def train_step(trial: Trial, batch: Indices) -> StepLosses:
    """Takes a step on a batch: w <- w - lr * dL_in/dw; where it is due, lambda moves along its hypergradient too."""
    due, pairs = trial.schedule.at(trial.step), trial.pairs
    if due.starts_stage:
        trial.start_stage()
    seen = trial.see(batch, due, remembers=due.remembers)
    if due.measures:
        measure_balance(trial, seen, due)
    step = inner_step(trial, seen, due) if due.looks else None
    if pairs and step and due.learns == "before":
        learn_weights(trial, pairs, step, moves=due.moves)
    losses, resting = inner_gradients(trial, seen, due)  # now: lambda may move before the regressors do
    if pairs and pairs.direction and step:  # before it is clipped
        step = replace(step, gradient={name: p.grad.clone() for name, p in trial.parameters.items() if p.grad is not None})
    clip_gradients(trial.config.training, trial.student.network)
    trial.optimizer.step()
    if trial.average:
        trial.average.update()
    if pairs and pairs.direction and step:
        if due.records:
            pairs.direction.record(step)
        if due.learns == "after":
            learn_weights(trial, pairs, step, moves=due.moves)
    if pairs and seen.targets:
        pairs.optimizer.step_but(resting)  # only now: the hypergradient belongs to the regressors that the step used
    trial.lr_schedule.step()
    trial.step += 1
    return losses


def inner_gradients(trial: Trial, seen: Seen, due: StepPlan) -> tuple[StepLosses, Mapping[nn.Parameter, Tensor]]:
    """Leaves the gradient of the inner loss in the student, and that of the unweighted sum of pair losses in the regressors.

    Gives the losses, and which numbers of the regressors rest (`resting_numbers`).
    """
    output, features = run_student(trial, seen.view.x, {})
    resting = resting_numbers(trial, due)
    term = term_of_step(trial, seen, features, due)
    loss = trial.objective.inner(output, seen.view, seen.teacher, term, labels=due.stage != "pairs")
    trial.optimizer.zero_grad()
    if trial.pairs:
        trial.pairs.optimizer.zero_grad()
    loss.total.backward()
    if trial.pairs and seen.targets and trial.pairs.losses.memory is not None:
        compared = [feature[: seen.targets.compared] for feature in as_targets(features)]
        trial.pairs.losses.memory.remember(compared, seen.targets)
    task = trial.prepared.task
    reached = task.metrics(task.statistics(output, seen.view.labels))[task.metric]
    return StepLosses(loss.task, loss.logits, loss.pairs, reached), resting
