"""How lambda learns: the inner step as a direction sees it, the outer gradient, and lambda's own step along the hypergradient."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from kd_hpo.core.balance import GradientBalance, squared_slopes
from kd_hpo.core.directions import InnerStep
from kd_hpo.core.hypergradient import hypergradient
from kd_hpo.core.objective import PairTerm
from kd_hpo.core.pairs import Targets
from kd_hpo.core.params import Params
from kd_hpo.core.updates import next_update
from kd_hpo.data.augment import view
from kd_hpo.data.batches import Indices, drawn_batch
from kd_hpo.trial.inputs import Seen, needed_pairs, pair_targets, see, viewed
from kd_hpo.trial.randomness import BALANCE, HESSIAN, OUTER, generator, random_state_kept, set_random_state
from kd_hpo.trial.schedule import StepPlan
from kd_hpo.trial.state import PairState, Trial
from kd_hpo.trial.student import Moment, as_targets, forward_mode_student, remember, run_student


def before_step(trial: Trial, seen: Seen, due: StepPlan) -> InnerStep | None:
    """Measures the balance, and moves lambda along a direction that looks from before the step, where they are due.

    Returns the step that is about to be taken, where a direction is to see it.
    """
    pairs, targets = trial.pairs, seen.targets
    if pairs is None or targets is None or not due.remembers:
        return None
    before = remember(trial)
    if due.measures:
        measure_balance(trial, pairs, seen, targets, before, due)
    if pairs.direction is None or not (due.learns or due.records):
        return None
    step = inner_step(trial, pairs, seen, targets, before, due)
    if due.learns and not pairs.direction.after_step:
        with trial.hypergradient_time:
            learn_weights(trial, pairs, step, trial.parameters)
    return step


def after_step(trial: Trial, step: InnerStep | None, due: StepPlan) -> None:
    """Shows the direction the step that was taken, and moves lambda along one that looks from after it, where they are due."""
    pairs = trial.pairs
    if step is None or pairs is None or pairs.direction is None:
        return
    trained = trial.parameters
    step = replace(step, gradient={name: p.grad.clone() for name, p in trained.items() if p.grad is not None})
    with trial.hypergradient_time:
        if due.records:
            pairs.direction.see(step)
        if due.learns and pairs.direction.after_step:
            learn_weights(trial, pairs, step, {name: trained[name] for name in step.gradient})


def inner_step(trial: Trial, pairs: PairState, seen: Seen, targets: Targets, before: Moment, due: StepPlan) -> InnerStep:
    """The step that is about to be taken on the batch, by copies of all that later steps change."""
    phi = {name: p.detach().clone() for name, p in pairs.losses.named_parameters()}
    strength = trial.config.pairs.strength * pairs.weighting.total(trial.epoch)
    scale = strength * pairs.balance.scales().to(targets.logits)
    weights = pairs.weighting.weights(trial.epoch).to(scale) * scale
    number = trial.step
    around = replace(before, parameters={})  # a direction that lets go of the step's w holds no other copy of it

    def matrix(features: list[Tensor], of: Targets) -> Tensor:
        return functional_call(pairs.losses, phi, (as_targets(features), of))  # type: ignore[no-any-return]

    def pair_losses(w: Params) -> Tensor:
        with random_state_kept():
            _, features = forward_mode_student(trial, seen.view.x, w, around)
            return matrix(features, targets)

    def inner_loss(w: Params, on: Seen) -> Tensor:
        output, features = run_student(trial, on.view.x, {**w, **{n: buffer.clone() for n, buffer in around.buffers.items()}})
        assert on.targets is not None
        term = partial(PairTerm.as_written, matrix, features, on.targets, weights)
        return trial.objective.inner(output, on.view, on.teacher, term, labels=due.stage != "pairs").total

    def hessian(w: Params, v: Params, batch: int) -> Params:
        on = seen if batch == 0 else fresh_batch(trial, number, batch, due)
        w = {name: value.detach().requires_grad_() for name, value in w.items()}
        along = {name: w[name] for name in v}
        with torch.enable_grad(), random_state_kept():
            set_random_state(around.random)
            gradients = torch.autograd.grad(
                inner_loss(w, on), list(along.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            slope = torch.stack([(g * v[name]).sum() for name, g in zip(along, gradients, strict=True)]).sum()
            products = torch.autograd.grad(slope, list(along.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(along, products, strict=True))

    return InnerStep(number, before.parameters, scale, pair_losses, hessian, next_update(trial.optimizer, trial.parameters))


def fresh_batch(trial: Trial, step: int, number: int, due: StepPlan) -> Seen:
    """The batch of the train split that the step and the number name, as training sees it, and what the pairs compare with."""
    size = trial.config.training.batch_size
    batch = drawn_batch(trial.prepared.splits.train, size, trial.config.seed, HESSIAN, step, number)
    return see(trial, viewed(trial, batch), due)


def learn_weights(trial: Trial, pairs: PairState, step: InnerStep, trained: Mapping[str, nn.Parameter]) -> None:
    """lambda <- a step on the simplex against d L_out / d lambda, the outer gradient being that of the trained parameters as
    they are now, before or after the inner step."""
    assert pairs.direction is not None
    outer, direct = outer_gradient(trial, pairs, trained)
    with torch.no_grad():
        total = torch.zeros(pairs.losses.plan.shape) if direct is None else direct
        for taken, q in pairs.direction(outer, step):
            everywhere = {name: q.get(name, torch.zeros_like(w)) for name, w in taken.w.items()}
            total = total.to(taken.scale) + hypergradient(taken.pair_losses, taken.w, everywhere, taken.scale)
        pairs.weighting.learn(total)


def outer_gradient(trial: Trial, pairs: PairState, trained: Mapping[str, nn.Parameter]) -> tuple[Params, Tensor | None]:
    """On a fresh batch of the outer split, at w as it is now: dL_out/dw of the trained parameters; dL_out/dlambda at fixed w.

    The batch goes through the student in parts of a training batch: it then takes no more memory than a step, and batch norm
    sees as many images as there.
    """
    assert trial.schedule.learning is not None
    batch = drawn_batch(trial.prepared.splits.outer, trial.schedule.learning.outer_batch, trial.config.seed, OUTER, trial.step)
    parts = np.array_split(batch, ceil(len(batch) / trial.config.training.batch_size))
    gradient, direct = {name: torch.zeros_like(w) for name, w in trained.items()}, None
    with random_state_kept():
        for part in parts:
            share = len(part) / len(batch)
            loss, matrix = outer_loss(trial, pairs, part, trial.schedule.learning.outer_objective)
            of_part = torch.autograd.grad(share * loss, list(trained.values()), allow_unused=True, materialize_grads=True)
            gradient = {name: g.add_(more) for (name, g), more in zip(gradient.items(), of_part, strict=True)}
            if matrix is not None:
                direct = share * matrix if direct is None else direct + share * matrix
    return gradient, direct


def outer_loss(trial: Trial, pairs: PairState, batch: Indices, of: str) -> tuple[Tensor, Tensor | None]:
    """L_out on plain images of the outer split; its derivative in lambda at fixed w, where it has lambda."""
    batches, targets = trial.prepared.batches, trial.prepared.targets
    seen = view(batches.inputs(batch), batches.labels(batch), (), torch.Generator())
    output, features = run_student(trial, seen.x, trial.buffers())
    teacher = targets.logits(batch, seen.x) if of == "task_and_teacher" else None
    loss = trial.objective.outer(output, seen, teacher)
    if of != "task_and_pairs":
        return loss, None
    said = pair_targets(trial, targets.batch(batch, seen.x, pairs.losses.plan.sizes))
    matrix = pairs.losses(as_targets(features), said)
    return loss + (pairs.weighting.weights(trial.epoch).to(matrix) * matrix).sum(), matrix.detach()


def measure_balance(trial: Trial, pairs: PairState, seen: Seen, targets: Targets, before: Moment, due: StepPlan) -> None:
    """The gradients' norms of the task and of the pairs on the batch, in the student's parameters."""
    assert isinstance(pairs.balance, GradientBalance)
    needed = needed_pairs(trial, pairs, due.measures_weighted_only)

    def losses(w: Params) -> Tensor:
        output, features = forward_mode_student(trial, seen.view.x, w, before)
        matrix = pairs.losses(as_targets(features), targets, needed=needed)
        task = seen.view.over_labels(partial(trial.objective.task.loss, output.to(matrix)))
        return torch.cat([task.view(1), matrix.flatten()])

    with torch.no_grad(), random_state_kept():
        squares = squared_slopes(losses, before.parameters, generator(trial.config.seed, BALANCE, trial.step))
    pairs.balance.observe(squares[0], squares[1:].view(pairs.losses.plan.shape), needed)
