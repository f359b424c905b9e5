"""One step of the bilevel problem: the inner update of the student, the hypergradient, the update of the pair weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_hpo.config.trial import GradientBalanced, LearnedWeights
from kd_hpo.core.balance import GradientBalance
from kd_hpo.core.directions import Params, update_jacobian
from kd_hpo.core.hypergradient import hypergradient
from kd_hpo.core.pair_losses import categorical_kl
from kd_hpo.core.pairs import Targets, pair_gradient_norms
from kd_hpo.core.weightings import Learned
from kd_hpo.data.batches import Indices, drawn_batch
from kd_hpo.errors import FeatureMismatch
from kd_hpo.trial.randomness import OUTER, random_state, random_state_kept, set_random_state
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
    learning = learns_now(trial)
    before = remember(trial) if learning else None
    x, targets = trial.prepared.batches.inputs(batch), trial.targets(batch) if trial.pairs else None
    losses = inner_gradients(trial, x, batch, targets)
    trial.optimizer.step()
    if trial.pairs and targets is not None:
        if trial.pairs.direction is not None:
            trial.pairs.direction.observe({n: p.grad for n, p in trial.parameters.items() if p.grad is not None})
        if before is not None:
            learn_weights(trial, trial.pairs, x, targets, before)
        trial.pairs.optimizer.step()  # only now: the hypergradient belongs to the regressors that the step used
    trial.schedule.step()
    trial.step += 1
    return losses


def learns_now(trial: Trial) -> bool:
    settings = trial.config.weighting
    if not isinstance(settings, LearnedWeights) or trial.step % settings.every:
        return False
    return settings.warmup * trial.total_steps <= trial.step and not held_from_now(trial)


def held_from_now(trial: Trial) -> bool:
    """Whether the pair weights stand still from this step to the end."""
    settings = trial.config.weighting
    return not isinstance(settings, LearnedWeights) or trial.step >= (1 - settings.hold) * trial.total_steps


def remember(trial: Trial) -> Moment:
    return Moment({n: p.detach().clone() for n, p in trial.parameters.items()}, trial.buffers(), random_state())


def inner_gradients(trial: Trial, x: Tensor, batch: Indices, targets: Targets | None) -> InnerLosses:
    """Leaves the gradient of L_task + kappa KD + beta sum lambda scale D in the student, that of sum D in the regressors."""
    kd, labels = trial.config.kd, trial.prepared.batches.labels(batch)
    logits, features = trial.student(x)
    task = F.cross_entropy(logits, labels)
    total, kd_loss, pair_loss = task, torch.zeros(()), torch.zeros(())
    if kd.weight:
        kd_loss = categorical_kl(logits, trial.prepared.targets.logits_of(batch).to(logits), kd.temperature).mean()
        total = total + kd.weight * kd_loss
    if trial.pairs and targets is not None:
        measure_balance(trial, trial.pairs, task, features, targets)
        weights = pair_weights(trial, trial.pairs, features, targets)
        scales = trial.config.pairs.strength * trial.pairs.balance.scales().to(x)
        sample_losses = trial.pairs.losses.sample_losses(features, targets, (weights * scales).detach())
        pair_loss = (weights * scales * sample_losses.detach()).sum((1, 2)).mean()
        total = total + sample_losses.mean(0).sum()
        if trial.pairs.attention is not None:  # learned from the training loss, as its paper does
            total = total + pair_loss
            trial.pairs.attention_sum += weights.detach().mean(0).cpu()
        trial.pairs.optimizer.zero_grad()
    trial.optimizer.zero_grad()
    total.backward()
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return InnerLosses(task.detach(), kd_loss.detach(), pair_loss.detach(), accuracy)


def pair_weights(trial: Trial, pairs: PairState, features: list[Tensor], targets: Targets) -> Tensor:
    """(T, S), or (B, T, S) from attention; sum 1 over the pairs."""
    if pairs.attention is None:
        return pairs.weighting.weights(trial.epoch).to(features[0])
    return pairs.attention(features, teacher_features(pairs, targets))  # type: ignore[no-any-return]


def teacher_features(pairs: PairState, targets: Targets) -> list[Tensor]:
    """Each teacher layer at the finest resolution that any pair reads it at: T tensors (B, hw, C)."""
    plan, found = pairs.losses.plan, dict[int, Tensor]()
    for size, layers in sorted(plan.blocks.items(), reverse=True):
        widths = [plan.teacher[t].channels for t in layers]
        for t, part in zip(layers, targets.blocks[size].split(widths, dim=2), strict=True):
            found.setdefault(t, part)
    return [found.get(t, targets.logits) for t in range(plan.shape[0])]


def measure_balance(trial: Trial, pairs: PairState, task: Tensor, features: list[Tensor], targets: Targets) -> None:
    settings = trial.config.pairs.balance
    if (
        not isinstance(settings, GradientBalanced)
        or not isinstance(pairs.balance, GradientBalance)
        or trial.step % settings.every
    ):
        return
    gradients = torch.autograd.grad(task, features, retain_graph=True, allow_unused=True)
    norms = [g.norm() for g in gradients if g is not None]
    if len(norms) < len(gradients):
        names = [layer for layer, g in zip(trial.student.layers, gradients, strict=True) if g is None]
        raise FeatureMismatch(
            f"the student's logits do not depend on its layers {', '.join(names)}, so their pairs cannot be balanced; "
            "leave them out of student.layers or set pairs.balance: {kind: none}"
        )
    pairs.balance.observe(torch.stack(norms), pair_gradient_norms(pairs.losses, features, targets))


def learn_weights(trial: Trial, pairs: PairState, x: Tensor, targets: Targets, before: Moment) -> None:
    """lambda <- a step on the simplex against d L_out / d lambda, for the inner step just taken from `before`."""
    assert isinstance(pairs.weighting, Learned) and pairs.direction is not None
    trained = {name: p for name, p in trial.parameters.items() if p.grad is not None}
    g, direct = outer_gradient(trial, pairs, trained)
    q = pairs.direction(g, lambda: update_jacobian(trial.optimizer, before.parameters, trained))
    q = {name: q.get(name, torch.zeros_like(w)) for name, w in before.parameters.items()}

    def pair_losses(w: Params) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in before.buffers.items()}
        _, features = functional_call(trial.student, {**w, **buffers}, (x,))
        return pairs.losses(features, targets)  # type: ignore[no-any-return]

    with torch.no_grad(), random_state_kept():
        set_random_state(before.random)  # the same dropout as in the step
        scale = trial.config.pairs.strength * pairs.balance.scales().to(x)
        pairs.weighting.learn(hypergradient(pair_losses, before.parameters, q, scale, direct))


def outer_gradient(trial: Trial, pairs: PairState, trained: Mapping[str, nn.Parameter]) -> tuple[Params, Tensor | None]:
    """On a fresh batch of the outer split, after the step: dL_out/dw of the trained parameters; dL_out/dlambda at fixed w."""
    settings = trial.config.weighting
    assert isinstance(settings, LearnedWeights)
    batch = drawn_batch(trial.prepared.splits.outer, settings.outer_batch, trial.config.seed, OUTER, trial.step)
    x, direct = trial.prepared.batches.inputs(batch), None
    with random_state_kept():
        logits, features = functional_call(trial.student, trial.buffers(), (x,))
    loss = F.cross_entropy(logits, trial.prepared.batches.labels(batch))
    if settings.outer_objective == "task_and_pairs":
        matrix = pairs.losses(features, trial.targets(batch))
        loss = loss + (pairs.weighting.weights(trial.epoch).to(matrix) * matrix).sum()
        direct = matrix.detach()
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(trained, gradients, strict=True)), direct
