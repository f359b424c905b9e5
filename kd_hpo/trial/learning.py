"""How lambda learns: the outer gradient, and lambda's own step along the hypergradient."""

from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor, nn

from kd_hpo.core.directions import InnerStep
from kd_hpo.core.hypergradient import hypergradient
from kd_hpo.core.params import Params
from kd_hpo.core.weightings import Gathers
from kd_hpo.trial.passes import as_targets, buffers_of, pair_targets, run_student, with_labels
from kd_hpo.trial.problem import BilevelProblem, OuterPart, PairState
from kd_hpo.trial.randomness import random_state_kept


def learn_weights(problem: BilevelProblem, pairs: PairState, step: InnerStep, *, moves: bool) -> None:
    """Moves lambda by a step on the simplex against d L_out / d lambda, the hypergradient.

    The outer gradient is that of the parameters as they are now, before or after the inner step: then of those that it has moved.

    moves  whether lambda moves, or the hypergradient is gathered only
    """
    if not problem.strength:  # a push of lambda moves nothing, and says nothing of the pairs
        return
    trained = {name: p for name, p in problem.parameters.items() if not step.gradient or name in step.gradient}
    with problem.hypergradient_time:
        outer, direct = outer_gradient(problem, pairs, trained)
        h = problem.averaged(hypergradient_along(pairs, outer, step))
        if h.isfinite().all() and (direct is None or direct.isfinite().all()):
            if moves:
                pairs.weighting.learn(h, direct)
            elif isinstance(pairs.weighting, Gathers):
                pairs.weighting.gather(h, direct)
        elif problem.lost is None:  # told at the end of the epoch, where a loss that was lost before it comes first
            problem.lost = problem.step


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


def outer_gradient(
    problem: BilevelProblem, pairs: PairState, trained: Mapping[str, nn.Parameter]
) -> tuple[Params, Tensor | None]:
    """Gives dL_out/dw of the trained parameters, and dL_out/dlambda at fixed w, on a fresh batch of the outer split.

    Both are at w as it is now. The batch goes through the student in parts of a training batch: it then takes no more memory
    than a step, and batch norm sees as many images as there.
    """
    assert problem.schedule.learning is not None
    gradient, direct = {name: torch.zeros_like(w) for name, w in trained.items()}, None
    with random_state_kept():
        for part in problem.outer_parts():
            loss, matrix = outer_loss(problem, pairs, part, problem.schedule.learning.outer_objective)
            of_part = torch.autograd.grad(part.share * loss, list(trained.values()), allow_unused=True, materialize_grads=True)
            gradient = {name: g.add_(more) for (name, g), more in zip(gradient.items(), of_part, strict=True)}
            if matrix is not None:
                direct = part.share * matrix if direct is None else direct + part.share * matrix
    averaged = {name: problem.averaged(g) for name, g in gradient.items()}
    return averaged, None if direct is None else problem.averaged(direct)


def parts_of(images: int, batch_size: int) -> int:
    """Tells in how many parts of about a training batch the outer batch goes: no part is one image unless training has such."""
    parts = ceil(images / batch_size)
    return parts if batch_size == 1 else max(1, min(parts, images // 2))


def outer_loss(problem: BilevelProblem, pairs: PairState, part: OuterPart, of: str) -> tuple[Tensor, Tensor | None]:
    """Gives L_out on plain images of the outer split, and its derivative in lambda at fixed w, where it has lambda."""
    output, features = run_student(problem, part.view.x, buffers_of(problem))
    teacher = part.teacher.logits() if of == "task_and_teacher" else None
    loss = problem.objective.outer(output, part.view, teacher)
    if of != "task_and_pairs":
        return loss, None
    said = with_labels(pairs, pair_targets(problem, part.teacher.targets(pairs.losses.plan.sizes)), part.view)
    matrix = pairs.losses(as_targets(features), said)
    return loss + (pairs.weighting.weights(problem.epoch).to(matrix) * matrix).sum(), matrix.detach()
