"""How lambda learns: the outer gradient, and lambda's own step along the hypergradient."""

from collections.abc import Mapping
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn

from kd_hpo.core.directions import InnerStep
from kd_hpo.core.hypergradient import hypergradient
from kd_hpo.core.params import Params
from kd_hpo.core.weightings import Gathers
from kd_hpo.data.batches import Indices, drawn_batch
from kd_hpo.trial.passes import as_targets, buffers_of, pair_targets, plain_view, run_student, with_labels
from kd_hpo.trial.randomness import OUTER, random_state_kept
from kd_hpo.trial.state import PairState, Trial


def learn_weights(trial: Trial, pairs: PairState, step: InnerStep, *, moves: bool) -> None:
    """Moves lambda by a step on the simplex against d L_out / d lambda, the hypergradient.

    The outer gradient is that of the parameters as they are now, before or after the inner step: then of those that it has moved.

    moves  whether lambda moves, or the hypergradient is gathered only
    """
    if not trial.strength:  # a push of lambda moves nothing, and says nothing of the pairs
        return
    trained = {name: p for name, p in trial.parameters.items() if not step.gradient or name in step.gradient}
    with trial.hypergradient_time:
        outer, direct = outer_gradient(trial, pairs, trained)
        h = hypergradient_along(pairs, outer, step)
        if h.isfinite().all() and (direct is None or direct.isfinite().all()):
            if moves:
                pairs.weighting.learn(h, direct)
            elif isinstance(pairs.weighting, Gathers):
                pairs.weighting.gather(h, direct)
        elif trial.lost is None:  # told at the end of the epoch, where a loss that was lost before it comes first
            trial.lost = trial.step


def hypergradient_along(pairs: PairState, outer: Params, last: InnerStep) -> Tensor:
    """Gives what lambda does to the outer loss through the student, (T, S), over the steps that the direction looks at.

    outer  dL_out/dw
    """
    assert pairs.direction is not None
    with torch.no_grad():
        total = torch.zeros(pairs.losses.plan.shape)
        for taken, q in pairs.direction(outer, last):
            everywhere = {name: q.get(name, torch.zeros_like(w)) for name, w in taken.w.items()}
            total = total.to(taken.scale) + hypergradient(
                taken.pair_losses, taken.w, everywhere, taken.scale, slope=pairs.derivatives.slope
            )
    return total


def outer_gradient(trial: Trial, pairs: PairState, trained: Mapping[str, nn.Parameter]) -> tuple[Params, Tensor | None]:
    """Gives dL_out/dw of the trained parameters, and dL_out/dlambda at fixed w, on a fresh batch of the outer split.

    Both are at w as it is now. The batch goes through the student in parts of a training batch: it then takes no more memory
    than a step, and batch norm sees as many images as there.
    """
    assert trial.schedule.learning is not None
    batch = drawn_batch(trial.prepared.splits.outer, trial.schedule.learning.outer_batch, trial.config.seed, OUTER, trial.step)
    parts = np.array_split(batch, parts_of(len(batch), trial.config.training.batch_size))
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


def parts_of(images: int, batch_size: int) -> int:
    """Tells in how many parts of about a training batch the outer batch goes: no part is one image unless training has such."""
    parts = ceil(images / batch_size)
    return parts if batch_size == 1 else max(1, min(parts, images // 2))


def outer_loss(trial: Trial, pairs: PairState, batch: Indices, of: str) -> tuple[Tensor, Tensor | None]:
    """Gives L_out on plain images of the outer split, and its derivative in lambda at fixed w, where it has lambda."""
    batches, targets = trial.prepared.batches, trial.prepared.targets
    seen = plain_view(batches, batch)
    output, features = run_student(trial, seen.x, buffers_of(trial))
    teacher = targets.logits(batch, seen.x) if of == "task_and_teacher" else None
    loss = trial.objective.outer(output, seen, teacher)
    if of != "task_and_pairs":
        return loss, None
    said = with_labels(pairs, pair_targets(trial, targets.batch(batch, seen.x, pairs.losses.plan.sizes)), seen)
    matrix = pairs.losses(as_targets(features), said)
    return loss + (pairs.weighting.weights(trial.epoch).to(matrix) * matrix).sum(), matrix.detach()
