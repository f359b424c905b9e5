"""The measure of the pairs' balance at a step."""

import torch
from torch import Tensor

from kd_hpo.core.balance import GradientBalance
from kd_hpo.core.hypergradient import squared_slopes
from kd_hpo.core.params import Params
from kd_hpo.trial.passes import Seen, as_targets, forward_mode_student, needed_pairs
from kd_hpo.trial.randomness import BALANCE, generator, random_state_kept
from kd_hpo.trial.schedule import StepPlan
from kd_hpo.trial.state import Trial


def measure_balance(trial: Trial, seen: Seen, due: StepPlan) -> None:
    """Shows the balance the norms of the task's and the pairs' gradients on the batch, in the student's parameters."""
    pairs, targets, before = trial.pairs, seen.targets, seen.before
    assert pairs is not None and targets is not None and before is not None and isinstance(pairs.balance, GradientBalance)
    needed = needed_pairs(trial, pairs, due.measures_weighted_only)

    def losses(w: Params) -> Tensor:
        output, features = forward_mode_student(trial, seen.view.x, w, before)
        matrix = pairs.losses(as_targets(features), targets, needed=needed)
        return torch.cat([trial.objective.task_loss(output.to(matrix), seen.view).view(1), matrix.flatten()])

    with torch.no_grad(), random_state_kept():
        chance = generator(trial.config.seed, BALANCE, trial.step)
        squares = squared_slopes(losses, before.parameters, chance, pairs.derivatives.slope)
    pairs.balance.observe(squares[0], squares[1:].view(pairs.losses.plan.shape), needed)
