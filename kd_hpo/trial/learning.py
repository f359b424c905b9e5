"""How lambda learns: the inner step as a direction sees it, the outer gradient, and lambda's own step along the hypergradient."""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_hpo.config.pairs import GradientBalanced, LearnedWeights
from kd_hpo.core.balance import GradientBalance, squared_slopes
from kd_hpo.core.directions import InnerStep
from kd_hpo.core.hypergradient import hypergradient
from kd_hpo.core.pair_losses import categorical_kl
from kd_hpo.core.pairs import Targets
from kd_hpo.core.params import Params
from kd_hpo.core.updates import next_update
from kd_hpo.core.weightings import Learned
from kd_hpo.data.augment import View
from kd_hpo.data.batches import Indices, drawn_batch
from kd_hpo.trial.randomness import BALANCE, HESSIAN, OUTER, generator, random_state_kept, set_random_state
from kd_hpo.trial.state import PairState, Trial, compared_examples
from kd_hpo.trial.student import Moment, as_targets, forward_mode_student, run_student


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


def closed_yet(trial: Trial) -> bool:
    """Whether lambda keeps its start for so long that the pairs which that leaves out need not be computed yet."""
    settings = trial.config.weighting
    if not isinstance(settings, LearnedWeights) or settings.start is None:
        return False
    return trial.step < (settings.warmup - settings.opening) * trial.total_steps


def needed_pairs(trial: Trial, pairs: PairState) -> Tensor | None:
    """(T, S), those with a weight, while no other one can get any soon, or ever again, or while the others rest; None: all."""
    if pairs.direction is None or not (closed_yet(trial) or held_from_now(trial) or others_rest(trial, pairs)):
        return None
    return pairs.weighting.weights(trial.epoch) > 0


def others_rest(trial: Trial, pairs: PairState) -> bool:
    """Whether this step may leave out the pairs without weight, whose regressors follow at fewer steps."""
    settings = trial.config.weighting
    if not isinstance(settings, LearnedWeights) or not trial.step % settings.idle_every:
        return False
    return not (learns_now(trial) or direction_sees(trial, pairs))


def direction_sees(trial: Trial, pairs: PairState) -> bool:
    """Whether the direction has to see this step."""
    settings = trial.config.weighting
    if pairs.direction is None or not isinstance(settings, LearnedWeights) or held_from_now(trial):
        return False
    return pairs.direction.sees(ahead=-trial.step % settings.every)


def what_teacher_says(trial: Trial, batch: Indices, x: Tensor) -> Targets | None:
    """As much as this step's losses want of it."""
    if trial.pairs and trial.stage != "task":
        needed = (balanced_pairs if measures_balance_now(trial, trial.pairs) else needed_pairs)(trial, trial.pairs)
        compared = compared_examples(trial.config, len(batch))
        return trial.prepared.targets.batch(batch, x, trial.pairs.losses.sizes(needed), compared)
    return Targets(trial.prepared.targets.logits(batch, x), {}) if trial.config.kd.weight else None


def inner_step(trial: Trial, pairs: PairState, seen: View, targets: Targets, before: Moment) -> InnerStep:
    """The step that is about to be taken on the batch, by copies of all that later steps change."""
    phi = {name: p.detach().clone() for name, p in pairs.losses.named_parameters()}
    strength = trial.config.pairs.strength * pairs.weighting.total(trial.epoch)
    scale = strength * pairs.balance.scales().to(targets.logits)
    weights = pairs.weighting.weights(trial.epoch).to(scale) * scale
    trained, number, stage = trial.parameters, trial.step, trial.stage
    around = replace(before, parameters={})  # a direction that lets go of the step's w holds no other copy of it

    def matrix(features: list[Tensor], of: Targets) -> Tensor:
        return functional_call(pairs.losses, phi, (as_targets(features), of))  # type: ignore[no-any-return]

    def pair_losses(w: Params) -> Tensor:
        with random_state_kept():
            _, features = forward_mode_student(trial, seen.x, w, around)
            return matrix(features, targets)

    def inner_loss(w: Params, view: View, of: Targets) -> Tensor:
        logits, features = run_student(trial, view.x, {**w, **{n: buffer.clone() for n, buffer in around.buffers.items()}})
        loss = (weights * matrix(features, of)).sum()
        if stage == "pairs":
            return loss
        kd = categorical_kl(logits, of.logits.to(logits), trial.config.kd.temperature).mean()
        return loss + view.cross_entropy(logits) + trial.config.kd.weight * kd

    def hessian(w: Params, v: Params, batch: int) -> Params:
        view, of = (seen, targets) if batch == 0 else fresh_batch(trial, number, batch)
        w = {name: value.detach().requires_grad_() for name, value in w.items()}
        along = {name: w[name] for name in v}
        with torch.enable_grad(), random_state_kept():
            set_random_state(around.random)
            gradients = torch.autograd.grad(
                inner_loss(w, view, of), list(along.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            slope = torch.stack([(g * v[name]).sum() for name, g in zip(along, gradients, strict=True)]).sum()
            products = torch.autograd.grad(slope, list(along.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(along, products, strict=True))

    return InnerStep(number, before.parameters, scale, pair_losses, hessian, next_update(trial.optimizer, trained))


def fresh_batch(trial: Trial, step: int, number: int) -> tuple[View, Targets]:
    """The batch of the train split that the step and the number name, as training sees it, and what the pairs compare with."""
    size = trial.config.training.batch_size
    batch = trial.viewed(drawn_batch(trial.prepared.splits.train, size, trial.config.seed, HESSIAN, step, number))
    seen = trial.view(batch)
    targets = what_teacher_says(trial, batch, seen.x)
    assert targets is not None
    return seen, trial.pair_targets(targets)


def learn_weights(trial: Trial, pairs: PairState, step: InnerStep, trained: Mapping[str, nn.Parameter]) -> None:
    """lambda <- a step on the simplex against d L_out / d lambda, the outer gradient being that of the trained parameters as
    they are now, before or after the inner step."""
    assert isinstance(pairs.weighting, Learned) and pairs.direction is not None
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
    settings = trial.config.weighting
    assert isinstance(settings, LearnedWeights)
    batch = drawn_batch(trial.prepared.splits.outer, settings.outer_batch, trial.config.seed, OUTER, trial.step)
    parts = np.array_split(batch, ceil(len(batch) / trial.config.training.batch_size))
    gradient, direct = {name: torch.zeros_like(w) for name, w in trained.items()}, None
    with random_state_kept():
        for part in parts:
            share = len(part) / len(batch)
            loss, matrix = outer_loss(trial, pairs, part)
            of_part = torch.autograd.grad(share * loss, list(trained.values()), allow_unused=True, materialize_grads=True)
            gradient = {name: g.add_(more) for (name, g), more in zip(gradient.items(), of_part, strict=True)}
            if matrix is not None:
                direct = share * matrix if direct is None else direct + share * matrix
    return gradient, direct


def outer_loss(trial: Trial, pairs: PairState, batch: Indices) -> tuple[Tensor, Tensor | None]:
    """L_out on images of the outer split; its derivative in lambda at fixed w, where it has lambda."""
    settings = trial.config.weighting
    assert isinstance(settings, LearnedWeights)
    x = trial.prepared.batches.inputs(batch)
    logits, features = run_student(trial, x, trial.buffers())
    loss = F.cross_entropy(logits, trial.prepared.batches.labels(batch))
    if settings.outer_objective == "task_and_teacher":
        teacher = trial.prepared.targets.logits(batch, x).to(logits)
        loss = loss + categorical_kl(logits, teacher, trial.config.kd.temperature).mean()
    if settings.outer_objective != "task_and_pairs":
        return loss, None
    targets = trial.prepared.targets.batch(batch, x, pairs.losses.plan.sizes)
    matrix = pairs.losses(as_targets(features), trial.pair_targets(targets))
    return loss + (pairs.weighting.weights(trial.epoch).to(matrix) * matrix).sum(), matrix.detach()


# ---- the pairs' balance


def balanced_pairs(trial: Trial, pairs: PairState) -> Tensor | None:
    """(T, S), those whose gradients a measure looks at; None: all, also those that are not computed yet."""
    return pairs.weighting.weights(trial.epoch) > 0 if pairs.direction is not None and held_from_now(trial) else None


def measures_balance_now(trial: Trial, pairs: PairState) -> bool:
    settings = trial.config.pairs.balance
    return isinstance(settings, GradientBalanced) and (not pairs.balance.started or trial.step % settings.every == 0)


def measure_balance(trial: Trial, pairs: PairState, seen: View, targets: Targets, before: Moment) -> None:
    """The gradients' norms of the task and of the pairs on the batch, in the student's parameters."""
    assert isinstance(pairs.balance, GradientBalance)
    needed = balanced_pairs(trial, pairs)

    def losses(w: Params) -> Tensor:
        logits, features = forward_mode_student(trial, seen.x, w, before)
        matrix = pairs.losses(as_targets(features), targets, needed=needed)
        return torch.cat([seen.cross_entropy(logits.to(matrix)).view(1), matrix.flatten()])

    with torch.no_grad(), random_state_kept():
        squares = squared_slopes(losses, before.parameters, generator(trial.config.seed, BALANCE, trial.step))
    pairs.balance.observe(squares[0], squares[1:].view(pairs.losses.plan.shape), needed)
