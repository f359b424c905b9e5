"""One step of the bilevel problem: the inner update of the student, the hypergradient, the update of the pair weights."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kd_hpo.core.pair_losses import categorical_kl
from kd_hpo.core.pairs import Targets
from kd_hpo.data.augment import View
from kd_hpo.data.batches import Indices
from kd_hpo.trial.learning import (
    direction_sees,
    inner_step,
    learn_weights,
    learns_now,
    measure_balance,
    measures_balance_now,
    needed_pairs,
    what_teacher_says,
)
from kd_hpo.trial.state import PairState, Trial
from kd_hpo.trial.student import as_targets, remember, run_student


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
    learns, sees, measures = learns_now(trial), direction_sees(trial, pairs), measures_balance_now(trial, pairs)
    before = remember(trial) if learns or sees or measures else None
    if before is not None and measures:
        measure_balance(trial, pairs, seen, compared, before)
    step = inner_step(trial, pairs, seen, compared, before) if before is not None and (learns or sees) else None
    if direction is not None and step is not None and learns and not direction.after_step:
        with trial.hypergradient_time:
            learn_weights(trial, pairs, step, trial.parameters)
    losses = inner_gradients(trial, seen, targets)
    trial.optimizer.step()
    if direction is not None and step is not None:
        step = replace(step, gradient={name: p.grad.clone() for name, p in trial.parameters.items() if p.grad is not None})
        with trial.hypergradient_time:
            if sees:
                direction.see(step)
            if learns and direction.after_step:
                learn_weights(trial, pairs, step, {name: trial.parameters[name] for name in step.gradient})
    pairs.optimizer.step()  # only now: the hypergradient belongs to the regressors that the step used
    return losses


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
        if trial.pairs.attention is None:
            matrix = trial.pairs.losses(as_targets(features), compared, weights * scales, needed_pairs(trial, trial.pairs))
            pair_loss = (weights * scales * matrix.detach()).sum()
            total = total + matrix.sum()
        else:  # weights of each example, learned from the training loss, as their paper does
            sample_losses = trial.pairs.losses.sample_losses(as_targets(features), compared, (weights * scales).detach())
            pair_loss = (weights * scales * sample_losses.detach()).sum((1, 2)).mean()
            total = total + sample_losses.mean(0).sum() + pair_loss
            trial.pairs.attention_sum += weights.detach().mean(0).cpu()
        trial.pairs.optimizer.zero_grad()
    trial.optimizer.zero_grad()
    total.backward()
    accuracy = (logits.detach().argmax(1) == seen.labels).float().mean()
    return InnerLosses(task.detach(), kd_loss.detach(), pair_loss.detach(), accuracy)


def pair_weights(trial: Trial, pairs: PairState, features: list[Tensor], targets: Targets) -> Tensor:
    """(T, S), or (B', T, S) from attention for the examples that are compared; sum 1 over the pairs."""
    if pairs.attention is None:
        return pairs.weighting.weights(trial.epoch).to(targets.logits)
    compared = [feature[: targets.compared] for feature in as_targets(features)]
    return pairs.attention(compared, teacher_features(pairs, targets))  # type: ignore[no-any-return]


def teacher_features(pairs: PairState, targets: Targets) -> list[Tensor]:
    """Each teacher layer at the finest resolution that any pair reads it at: T tensors (B', hw, C)."""
    plan, found = pairs.losses.plan, dict[int, Tensor]()
    for size in sorted(plan.sizes, reverse=True):
        layers = plan.blocks[size]
        widths = [plan.teacher[t].channels for t in layers]
        for t, part in zip(layers, targets.blocks[size].split(widths, dim=2), strict=True):
            found.setdefault(t, part)
    return [found.get(t, targets.logits[: targets.compared]) for t in range(plan.shape[0])]
