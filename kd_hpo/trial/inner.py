"""The inner step as a direction of the hypergradient sees it."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from kd_hpo.core.directions import InnerStep
from kd_hpo.core.objective import PairTerm
from kd_hpo.core.pairs import Targets
from kd_hpo.core.params import Params
from kd_hpo.core.updates import next_update
from kd_hpo.nets.forward_mode import TwiceDifferentiable
from kd_hpo.trial.passes import as_targets, forward_mode_student, run_student
from kd_hpo.trial.problem import BilevelProblem, Seen
from kd_hpo.trial.randomness import random_state_kept, set_random_state
from kd_hpo.trial.schedule import StepPlan


def inner_step(problem: BilevelProblem, seen: Seen, due: StepPlan) -> InnerStep:
    """Describes the step that is about to be taken on the batch, by copies of all that later steps change."""
    pairs, targets, before = problem.pairs, seen.targets, seen.before
    assert pairs is not None and targets is not None and before is not None
    phi = {name: p.detach().clone() for name, p in pairs.losses.named_parameters()}
    if pairs.losses.memory is not None:  # which the step moves
        phi |= {name: buffer.clone() for name, buffer in pairs.losses.named_buffers()}
    strength = problem.strength * pairs.weighting.total(problem.epoch)
    scale = strength * pairs.balance.scales().to(targets.logits)
    weights = pairs.weighting.weights(problem.epoch).to(scale) * scale
    number, objective = problem.step, problem.objective
    # A direction that lets go of the step's w holds no other copy of it.
    around, seen = replace(before, parameters={}), replace(seen, before=None)

    def matrix(features: list[Tensor], of: Targets) -> Tensor:
        return functional_call(pairs.losses, phi, (as_targets(features), of))  # type: ignore[no-any-return]

    def pair_losses(w: Params) -> Tensor:
        with random_state_kept():
            _, features = forward_mode_student(problem, seen.view.x, w, around)
            return matrix(features, targets)

    def inner_loss(w: Params, on: Seen) -> Tensor:
        set_random_state(around.random)
        output, features = run_student(problem, on.view.x, {**w, **{n: buffer.clone() for n, buffer in around.buffers.items()}})
        assert on.targets is not None
        term = partial(PairTerm.as_written, matrix, features, on.targets, weights)
        return objective.inner(output, on.view, on.teacher, term, labels=due.stage != "pairs").total

    def hessian(w: Params, v: Params, batch: int) -> Params:
        on = seen if batch == 0 else problem.fresh_batch(number, batch, due)

        def gradient(w: Params) -> Params:
            along = {name: w[name] for name in v}
            found = torch.autograd.grad(
                inner_loss(w, on), list(along.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            return dict(zip(along, found, strict=True))

        with random_state_kept(), TwiceDifferentiable():
            return pairs.derivatives.hessian_product(gradient, w, v, pair_losses)

    update = next_update(problem.optimizer, problem.parameters, problem.clip_norm)
    return InnerStep(number, before.parameters, scale, pair_losses, hessian, update)
