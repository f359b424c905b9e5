"""The term of the pairs in the loss of a step: beta sum_ts lambda_ts scale_ts D_ts."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from kd_hpo.core.objective import PairTerm
from kd_hpo.core.pairs import Targets
from kd_hpo.core.weightings import Compared
from kd_hpo.trial.passes import as_targets, needed_pairs
from kd_hpo.trial.problem import BilevelProblem, PairState, Seen
from kd_hpo.trial.schedule import StepPlan


def term_of_step(problem: BilevelProblem, seen: Seen, features: list[Tensor], due: StepPlan) -> Callable[[], PairTerm] | None:
    """Gives what makes the term of a step from the student's features; None where the step has no pairs."""
    if problem.pairs is None or seen.targets is None:
        return None
    return partial(pair_term, problem, problem.pairs, as_targets(features), seen.targets, due)


def pair_term(problem: BilevelProblem, pairs: PairState, features: list[Tensor], targets: Targets, due: StepPlan) -> PairTerm:
    """Makes the term of the pairs, with the weights beta * lambda * scale of this step."""
    weighting, epoch = pairs.weighting, problem.epoch
    compared = compared_features(pairs, features, targets) if weighting.reads_features else None
    weights = weighting.weights(epoch, compared).to(targets.logits)
    scales = problem.strength * weighting.total(epoch) * pairs.balance.scales().to(targets.logits)
    needed, unit = needed_pairs(problem, pairs, due.weighted_only), problem.pair_settings.regressor_gradient is None
    return PairTerm.of_step(pairs.losses, features, targets, weights * scales, needed, unit=unit)


def compared_features(pairs: PairState, features: list[Tensor], targets: Targets) -> Compared:
    """Gives the features that are compared: the student's, and the teacher's at the finest resolution that any pair reads."""
    plan, found = pairs.losses.plan, dict[int, Tensor]()
    for size in sorted(plan.sizes, reverse=True):
        layers = plan.blocks[size]
        widths = [plan.teacher[t].channels for t in layers]
        for t, part in zip(layers, targets.blocks[size].split(widths, dim=2), strict=True):
            found.setdefault(t, part)
    teacher = [found.get(t, targets.logits[: targets.compared]) for t in range(plan.shape[0])]
    return Compared([feature[: targets.compared] for feature in features], teacher)
