"""The measure of the pairs' balance at a step: exact norms of gradients, as the optimiser sees them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_hpo.core.balance import GradientBalance, gains
from kd_hpo.trial.passes import Seen, as_targets, buffers_of, needed_pairs, run_student
from kd_hpo.trial.randomness import random_state_kept
from kd_hpo.trial.schedule import StepPlan
from kd_hpo.trial.state import Trial


def measure_balance(trial: Trial, seen: Seen, due: StepPlan) -> None:
    """Shows the balance the norms of the task's and the pairs' gradients on the batch, in the student's parameters."""
    pairs = trial.pairs
    assert pairs is not None and isinstance(pairs.balance, GradientBalance)
    measured = squared_norms(trial, seen, pairs.balance, needed_pairs(trial, pairs, due.measures_weighted_only))
    pairs.balance.observe(*measured)


def squared_norms(trial: Trial, seen: Seen, balance: GradientBalance, needed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The squared norms of the gradients on the batch: of the task's loss, (), and of the pairs, (T, S); and which it measured.

    Pairs whose turn it is not have 0. The norms are in the metric of the optimiser: what counts is how far a gradient moves
    the parameters. A pair's gradient in all layers of the student at once comes by one pass back for a row of pairs, to the
    layers themselves, and one for each pair from there.
    """
    pairs, targets = trial.pairs, seen.targets
    assert pairs is not None and targets is not None
    turn, trained = balance.in_turn(needed), trial.parameters
    metric = gains(trial.optimizer, trained)

    def squared(gradients: Sequence[Tensor | None]) -> Tensor:
        parts = zip(trained, gradients, strict=True)
        return sum((weighed(name, g) for name, g in parts if g is not None), torch.zeros((), device=trial.device))

    def weighed(name: str, gradient: Tensor) -> Tensor:
        return (gradient * metric[name] if name in metric else gradient).square().sum()

    with random_state_kept():  # the same dropout as in the step
        output, features = run_student(trial, seen.view.x, buffers_of(trial))
    apart = [feature.detach().requires_grad_() for feature in features]
    matrix = pairs.losses(as_targets(apart), targets, torch.ones(turn.shape).to(targets.logits), turn)
    found = torch.zeros_like(matrix).detach()
    if pairs.losses.across_layers:
        for t, s in turn.nonzero().tolist():
            everywhere = torch.autograd.grad(matrix[t, s], apart, retain_graph=True, allow_unused=True)
            parts = [(f, g) for f, g in zip(features, everywhere, strict=True) if g is not None and f.requires_grad]
            found[t, s] = squared(_gradients([f for f, _ in parts], trained, [g for _, g in parts]))
        return squared(_gradients(trial.objective.task_loss(output, seen.view), trained)).detach(), found, turn
    for t in turn.any(1).nonzero().flatten().tolist():
        at_layers = torch.autograd.grad(matrix[t].sum(), apart, retain_graph=True, allow_unused=True)
        for s, at_layer in enumerate(at_layers):
            if turn[t, s] and at_layer is not None and features[s].requires_grad:
                found[t, s] = squared(_gradients(features[s], trained, at_layer))
    return squared(_gradients(trial.objective.task_loss(output, seen.view), trained)).detach(), found, turn


def _gradients(
    of: Tensor | Sequence[Tensor], trained: dict[str, nn.Parameter], along: Tensor | Sequence[Tensor] | None = None
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(of, list(trained.values()), along, retain_graph=True, allow_unused=True)
