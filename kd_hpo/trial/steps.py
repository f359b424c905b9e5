"""One step of the bilevel problem: the inner update of the student, the hypergradient, the update of the pair weights."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_hpo.config.pairs import GradientBalanced, LearnedWeights
from kd_hpo.core.balance import GradientBalance, squared_slopes
from kd_hpo.core.directions import InnerStep, update_jacobian
from kd_hpo.core.hypergradient import hypergradient
from kd_hpo.core.pair_losses import categorical_kl
from kd_hpo.core.pairs import Targets
from kd_hpo.core.params import Params
from kd_hpo.core.weightings import Learned
from kd_hpo.data.augment import View
from kd_hpo.data.batches import Indices, drawn_batch
from kd_hpo.nets.forward_mode import plain_attention
from kd_hpo.trial.randomness import BALANCE, HESSIAN, OUTER, generator, random_state, random_state_kept, set_random_state
from kd_hpo.trial.state import PairState, Trial


@dataclass(frozen=True)
class Moment:
    """The student just before a step, for the Jacobian of that step: parameters, buffers, random state."""

    parameters: Params
    buffers: Params
    random: dict[str, Tensor]


@dataclass(frozen=True)
class InnerLosses:
    """Of one batch, each a number on the device: cross-entropy, KD, beta times the weighted sum of pair losses, accuracy."""

    task: Tensor
    kd: Tensor
    pairs: Tensor
    accuracy: Tensor

    def stacked(self) -> Tensor:
        return torch.stack([self.task, self.kd.to(self.task), self.pairs.to(self.task), self.accuracy])


def train_step(trial: Trial, batch: Indices) -> InnerLosses:
    """w <- w - lr * dL_in/dw on the batch; on an update step, lambda along its hypergradient too."""
    if trial.step and trial.step == trial.steps_of_pairs:
        trial.start_stage()
    seen = trial.view(batch)
    targets = what_teacher_says(trial, batch, seen.x)
    if trial.pairs is None or targets is None or trial.stage == "task":
        losses = inner_gradients(trial, seen, targets)
        trial.optimizer.step()
    else:
        losses = train_step_with_pairs(trial, trial.pairs, seen, targets)
    trial.schedule.step()
    trial.step += 1
    return losses


def train_step_with_pairs(trial: Trial, pairs: PairState, seen: View, targets: Targets) -> InnerLosses:
    """The steps of the student and of the regressors; before or after the student's, as the direction asks, that of lambda."""
    compared, direction = trial.pair_targets(targets), pairs.direction
    learns, measures = learns_now(trial), measures_balance_now(trial, pairs)
    before = remember(trial) if learns or measures else None
    if before is not None and measures:
        measure_balance(trial, pairs, seen, compared, before)
    if before is not None and learns and direction is not None and not direction.after_step:
        learn_weights(trial, pairs, seen.x, compared, before, trial.parameters)
    losses = inner_gradients(trial, seen, targets)
    trial.optimizer.step()
    if direction is not None:
        gradients = {name: p.grad for name, p in trial.parameters.items() if p.grad is not None}
        direction.observe(gradients)
        if before is not None and learns and direction.after_step:
            learn_weights(trial, pairs, seen.x, compared, before, {name: trial.parameters[name] for name in gradients})
    pairs.optimizer.step()  # only now: the hypergradient belongs to the regressors that the step used
    return losses


def learns_now(trial: Trial) -> bool:
    """Whether lambda is updated at this step."""
    settings = trial.config.weighting
    if not isinstance(settings, LearnedWeights) or trial.step % settings.every:
        return False
    return settings.warmup * trial.total_steps <= trial.step and not held_from_now(trial)


def held_from_now(trial: Trial) -> bool:
    """Whether the pair weights stand still from this step to the end."""
    settings = trial.config.weighting
    return not isinstance(settings, LearnedWeights) or trial.step >= (1 - settings.hold) * trial.total_steps


def what_teacher_says(trial: Trial, batch: Indices, x: Tensor) -> Targets | None:
    """As much as this step's losses want of it."""
    if trial.pairs and trial.stage != "task":
        return trial.prepared.targets.batch(batch, x, trial.pairs.losses.plan.sizes)
    return Targets(trial.prepared.targets.logits(batch, x), {}) if trial.config.kd.weight else None


def remember(trial: Trial) -> Moment:
    return Moment({n: p.detach().clone() for n, p in trial.parameters.items()}, trial.buffers(), random_state())


def inner_gradients(trial: Trial, seen: View, targets: Targets | None) -> InnerLosses:
    """Leaves the gradient of L_task + kappa KD + beta sum lambda scale D in the student, that of sum D in the regressors."""
    kd, stage = trial.config.kd, trial.stage
    logits, features = run_student(trial, seen.x, {})
    task, kd_loss, pair_loss = seen.cross_entropy(logits), torch.zeros(()), torch.zeros(())
    total = task if stage != "pairs" else torch.zeros((), device=task.device)
    if targets and kd.weight and stage != "pairs":
        kd_loss = categorical_kl(logits, targets.logits.to(logits), kd.temperature).mean()
        total = total + kd.weight * kd_loss
    if trial.pairs and targets and stage != "task":
        compared = trial.pair_targets(targets)
        weights = pair_weights(trial, trial.pairs, features, compared)
        scales = trial.config.pairs.strength * trial.pairs.weighting.total(trial.epoch) * trial.pairs.balance.scales().to(task)
        sample_losses = trial.pairs.losses.sample_losses(as_targets(features), compared, (weights * scales).detach())
        pair_loss = (weights * scales * sample_losses.detach()).sum((1, 2)).mean()
        total = total + sample_losses.mean(0).sum()
        if trial.pairs.attention is not None:  # learned from the training loss, as its paper does
            total = total + pair_loss
            trial.pairs.attention_sum += weights.detach().mean(0).cpu()
        trial.pairs.optimizer.zero_grad()
    trial.optimizer.zero_grad()
    total.backward()
    accuracy = (logits.detach().argmax(1) == seen.labels).float().mean()
    return InnerLosses(task.detach(), kd_loss.detach(), pair_loss.detach(), accuracy)


def run_student(trial: Trial, x: Tensor, state: Params) -> tuple[Tensor, list[Tensor]]:
    """The student's logits, in the precision of losses, and its features as they are; `state` stands in for its tensors."""
    learning = isinstance(trial.config.weighting, LearnedWeights)  # its step and the Jacobian of the step run alike
    with trial.prepared.batches.autocast(), plain_attention() if learning else nullcontext():
        logits, features = functional_call(trial.student, state, (x,)) if state else trial.student(x)
    return logits.to(trial.prepared.batches.dtype), features


def as_targets(features: list[Tensor]) -> list[Tensor]:
    """Features in the precision of losses: what autocast left in bfloat16 becomes float32."""
    return [f.float() if f.dtype == torch.bfloat16 else f for f in features]


def pair_weights(trial: Trial, pairs: PairState, features: list[Tensor], targets: Targets) -> Tensor:
    """(T, S), or (B, T, S) from attention; sum 1 over the pairs."""
    if pairs.attention is None:
        return pairs.weighting.weights(trial.epoch).to(targets.logits)
    return pairs.attention(as_targets(features), teacher_features(pairs, targets))  # type: ignore[no-any-return]


def teacher_features(pairs: PairState, targets: Targets) -> list[Tensor]:
    """Each teacher layer at the finest resolution that any pair reads it at: T tensors (B, hw, C)."""
    plan, found = pairs.losses.plan, dict[int, Tensor]()
    for size in sorted(plan.sizes, reverse=True):
        layers = plan.blocks[size]
        widths = [plan.teacher[t].channels for t in layers]
        for t, part in zip(layers, targets.blocks[size].split(widths, dim=2), strict=True):
            found.setdefault(t, part)
    return [found.get(t, targets.logits) for t in range(plan.shape[0])]


def measures_balance_now(trial: Trial, pairs: PairState) -> bool:
    settings = trial.config.pairs.balance
    return isinstance(settings, GradientBalanced) and (not pairs.balance.started or trial.step % settings.every == 0)


def measure_balance(trial: Trial, pairs: PairState, seen: View, targets: Targets, before: Moment) -> None:
    """The gradients' norms of the task and of all pairs on the batch, in the student's parameters."""
    assert isinstance(pairs.balance, GradientBalance)

    def losses(w: Params) -> Tensor:
        logits, features = forward_mode_student(trial, seen.x, w, before)
        matrix = pairs.losses(as_targets(features), targets)
        return torch.cat([seen.cross_entropy(logits.to(matrix)).view(1), matrix.flatten()])

    with torch.no_grad(), random_state_kept():
        squares = squared_slopes(losses, before.parameters, generator(trial.config.seed, BALANCE, trial.step))
    pairs.balance.observe(squares[0], squares[1:].view(pairs.losses.plan.shape))


def forward_mode_student(trial: Trial, x: Tensor, w: Params, before: Moment) -> tuple[Tensor, list[Tensor]]:
    """Logits and features of parameters w that carry a tangent, with buffers and random state as just before the step."""
    set_random_state(before.random)  # the same dropout as in the step
    buffers = {name: buffer.clone() for name, buffer in before.buffers.items()}
    with plain_attention():  # and in float32: autocast has no forward mode
        logits, features = functional_call(trial.student, {**w, **buffers}, (x,))
    return logits, features


def learn_weights(
    trial: Trial, pairs: PairState, x: Tensor, targets: Targets, before: Moment, trained: Mapping[str, nn.Parameter]
) -> None:
    """lambda <- a step on the simplex against d L_out / d lambda, for the inner step on x that is taken from `before`."""
    assert isinstance(pairs.weighting, Learned) and pairs.direction is not None
    g, direct = outer_gradient(trial, pairs, trained)
    step = InnerStep(
        jacobian=lambda: update_jacobian(trial.optimizer, before.parameters, trained),
        hessian=partial(inner_hessian, trial, pairs),
    )
    q = pairs.direction(g, step)
    q = {name: q.get(name, torch.zeros_like(w)) for name, w in before.parameters.items()}

    def pair_losses(w: Params) -> Tensor:
        _, features = forward_mode_student(trial, x, w, before)
        return pairs.losses(as_targets(features), targets)  # type: ignore[no-any-return]

    with torch.no_grad(), random_state_kept():
        scale = trial.config.pairs.strength * pairs.balance.scales().to(x)
        pairs.weighting.learn(hypergradient(pair_losses, before.parameters, q, scale, direct))


def outer_gradient(trial: Trial, pairs: PairState, trained: Mapping[str, nn.Parameter]) -> tuple[Params, Tensor | None]:
    """On a fresh batch of the outer split, at w as it is now: dL_out/dw of the trained parameters; dL_out/dlambda at fixed w."""
    settings = trial.config.weighting
    assert isinstance(settings, LearnedWeights)
    batch = drawn_batch(trial.prepared.splits.outer, settings.outer_batch, trial.config.seed, OUTER, trial.step)
    x, direct = trial.prepared.batches.inputs(batch), None
    with random_state_kept():
        logits, features = run_student(trial, x, trial.buffers())
    loss = F.cross_entropy(logits, trial.prepared.batches.labels(batch))
    if settings.outer_objective == "task_and_teacher":
        teacher = trial.prepared.targets.logits(batch, x).to(logits)
        loss = loss + categorical_kl(logits, teacher, trial.config.kd.temperature).mean()
    if settings.outer_objective == "task_and_pairs":
        targets = trial.prepared.targets.batch(batch, x, pairs.losses.plan.sizes)
        matrix = pairs.losses(as_targets(features), trial.pair_targets(targets))
        loss = loss + (pairs.weighting.weights(trial.epoch).to(matrix) * matrix).sum()
        direct = matrix.detach()
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(trained, gradients, strict=True)), direct


def inner_hessian(trial: Trial, pairs: PairState, v: Params, number: int) -> Params:
    """H v, with H of the inner loss at w as it is now, on the batch of the train split that the step and the number name."""
    batch = drawn_batch(
        trial.prepared.splits.train, trial.config.training.batch_size, trial.config.seed, HESSIAN, trial.step, number
    )
    seen, w = trial.view(batch), {name: p for name, p in trial.parameters.items() if name in v}
    targets = what_teacher_says(trial, batch, seen.x)
    assert targets is not None
    with random_state_kept():
        logits, features = run_student(trial, seen.x, trial.buffers())
    matrix = pairs.losses(as_targets(features), trial.pair_targets(targets))
    weights = pairs.weighting.weights(trial.epoch).to(matrix) * trial.config.pairs.strength * pairs.balance.scales().to(matrix)
    kd = categorical_kl(logits, targets.logits.to(logits), trial.config.kd.temperature).mean()
    loss = seen.cross_entropy(logits) + trial.config.kd.weight * kd + (weights * matrix).sum()
    gradients = torch.autograd.grad(loss, list(w.values()), create_graph=True, allow_unused=True, materialize_grads=True)
    along = sum((g * v[name]).sum() for name, g in zip(w, gradients, strict=True))
    assert isinstance(along, torch.Tensor)
    products = torch.autograd.grad(along, list(w.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(w, products, strict=True))
