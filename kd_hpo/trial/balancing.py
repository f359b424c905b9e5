"""The measure of the pairs' balance at a step: exact norms of gradients, as the optimiser sees them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_hpo.core.balance import GradientBalance, gains
from kd_hpo.trial.passes import as_targets, buffers_of, needed_pairs, run_student
from kd_hpo.trial.problem import BilevelProblem, Seen
from kd_hpo.trial.randomness import random_state_kept
from kd_hpo.trial.schedule import StepPlan


def measure_balance(problem: BilevelProblem, seen: Seen, due: StepPlan) -> None:
    """Shows the balance the norms of the task's and the pairs' gradients on the batch, in the student's parameters."""
    pairs = problem.pairs
    assert pairs is not None and isinstance(pairs.balance, GradientBalance)
    needed = needed_pairs(problem, pairs, due.measures_weighted_only)
    task, found, turn = squared_norms(problem, seen, pairs.balance, needed)
    pairs.balance.observe(problem.averaged(task), problem.averaged(found), turn)


def squared_norms(
    problem: BilevelProblem, seen: Seen, balance: GradientBalance, needed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The squared norms of the gradients on the batch: of the task's loss, (), and of the pairs, (T, S); and which it measured.

    Pairs whose turn it is not have 0. The norms are in the metric of the optimiser: what counts is how far a gradient moves
    the parameters. A pair's gradient in all layers of the student at once comes by one pass back for a row of pairs, to the
    layers themselves, and one for each pair from there.
    """
    pairs, targets = problem.pairs, seen.targets
    assert pairs is not None and targets is not None
    turn, trained = balance.in_turn(needed), problem.parameters
    metric = gains(problem.optimizer, trained)

    def squared(gradients: Sequence[Tensor | None]) -> Tensor:
        parts = zip(trained, gradients, strict=True)
        return sum((weighed(name, g) for name, g in parts if g is not None), torch.zeros((), device=problem.precision.device))

    def weighed(name: str, gradient: Tensor) -> Tensor:
        return (gradient * metric[name] if name in metric else gradient).square().sum()

    with random_state_kept():  # the same dropout as in the step
        output, features = run_student(problem, seen.view.x, buffers_of(problem))
    apart = [feature.detach().requires_grad_() for feature in features]
    matrix = pairs.losses(as_targets(apart), targets, torch.ones(turn.shape).to(targets.logits), turn)
    found = torch.zeros_like(matrix).detach()
    if pairs.losses.across_layers:
        for t, s in turn.nonzero().tolist():
            everywhere = torch.autograd.grad(matrix[t, s], apart, retain_graph=True, allow_unused=True)
            parts = [(f, g) for f, g in zip(features, everywhere, strict=True) if g is not None and f.requires_grad]
            found[t, s] = squared(_gradients([f for f, _ in parts], trained, [g for _, g in parts]))
        return squared(_gradients(problem.objective.task_loss(output, seen.view), trained)).detach(), found, turn
    for t in turn.any(1).nonzero().flatten().tolist():
        at_layers = torch.autograd.grad(matrix[t].sum(), apart, retain_graph=True, allow_unused=True)
        for s, at_layer in enumerate(at_layers):
            if turn[t, s] and at_layer is not None and features[s].requires_grad:
                found[t, s] = squared(_gradients(features[s], trained, at_layer))
    return squared(_gradients(problem.objective.task_loss(output, seen.view), trained)).detach(), found, turn


def _gradients(
    of: Tensor | Sequence[Tensor], trained: dict[str, nn.Parameter], along: Tensor | Sequence[Tensor] | None = None
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(of, list(trained.values()), along, retain_graph=True, allow_unused=True)
