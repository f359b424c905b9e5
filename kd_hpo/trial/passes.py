"""What a step looks at, a batch as training sees it and what the teacher says of it, and the student's forward passes."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_hpo.config.wording import cut, one_line
from kd_hpo.core.pairs import Targets
from kd_hpo.core.params import Params
from kd_hpo.data.augment import View
from kd_hpo.errors import ConfigError
from kd_hpo.nets.forward_mode import ShortTangents, plain_attention
from kd_hpo.nets.inputs import examples_in
from kd_hpo.trial.problem import Answers, BilevelProblem, Moment, PairState, Seen
from kd_hpo.trial.randomness import SHUFFLE, generator, random_state, set_random_state
from kd_hpo.trial.schedule import StepPlan
from kd_hpo.trial.weighting import compared_examples


def remember(problem: BilevelProblem) -> Moment:
    parameters = {n: p.detach().clone() for n, p in problem.parameters.items()}
    return Moment(parameters, buffers_of(problem), random_state())


def look(problem: BilevelProblem, view: View, teacher: Answers, due: StepPlan, before: Moment | None) -> Seen:
    """A batch as training sees it, and as much of the teacher as the step's losses want.

    before  the student as it is now, where somebody looks back to it
    """
    if problem.pairs and due.stage != "task":
        needed = needed_pairs(problem, problem.pairs, due.measures_weighted_only if due.measures else due.weighted_only)
        compared = compared_examples(problem.pair_settings, examples_in(view.x))
        said = teacher.targets(problem.pairs.losses.sizes(needed), compared)
        return Seen(view, said.logits, with_labels(problem.pairs, pair_targets(problem, said), view), before)
    return Seen(view, teacher.logits() if problem.objective.logit_weight else None, None, before)


def needed_pairs(problem: BilevelProblem, pairs: PairState, weighted_only: bool) -> Tensor | None:
    """Tells which pairs have a weight now: True in (T, S); None for all."""
    return pairs.weighting.weights(problem.epoch) > 0 if weighted_only else None


def resting_numbers(problem: BilevelProblem, due: StepPlan) -> Mapping[nn.Parameter, Tensor]:
    """The numbers of the pairs' parameters that the step leaves out: True, in the parameter's shape."""
    return problem.pairs.losses.resting(needed_pairs(problem, problem.pairs, due.weighted_only)) if problem.pairs else {}


def pair_targets(problem: BilevelProblem, targets: Targets) -> Targets:
    """The targets that the pairs compare with: where they are shuffled, each example gets another one's."""
    if problem.pair_settings.targets == "teacher":
        return targets

    def shuffled(rows: Tensor) -> Tensor:
        order = torch.randperm(len(rows), generator=generator(problem.seed, SHUFFLE, problem.step))
        return rows[order.to(rows.device)]

    return Targets(shuffled(targets.logits), {size: shuffled(block) for size, block in targets.blocks.items()})


def with_labels(pairs: PairState, targets: Targets, seen: View) -> Targets:
    """The targets with the labels of the images, where a pair reads them. Raises ConfigError for labels that are no classes."""
    if not pairs.losses.reads_labels:
        return targets
    for labels in (seen.labels, seen.partners):
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            raise ConfigError("a pair loss reads the labels, which have to be classes then: a tensor of whole numbers (B,)")
    own, other = (F.one_hot(labels, targets.logits.shape[1]).to(targets.logits) for labels in (seen.labels, seen.partners))
    return replace(targets, shares=seen.share * own + (1 - seen.share) * other)


# ---- forward passes


def buffers_of(problem: BilevelProblem) -> Params:
    """Copies of the student's buffers, for passes that must not move them."""
    return {name: buffer.clone() for name, buffer in problem.student.named_buffers()}


def run_student(problem: BilevelProblem, x: Any, state: Params) -> tuple[Tensor, list[Tensor]]:
    """The student's output, in the precision of losses, and its features as they are; `state` stands in for its tensors."""
    given = partial(functional_call, problem.student, state, (x,)) if state else partial(problem.plain_pass, x)
    learning = problem.schedule.learning is not None  # its step and the Jacobian of the step run alike
    with problem.precision.autocast(), plain_attention() if learning else nullcontext():
        output, features = given()
    return output.to(problem.precision.dtype), features


def compiled_pass(compiled: Callable[[Any], Any], x: Any) -> tuple[Tensor, list[Tensor]]:
    """Runs a compiled student. Raises ConfigError where torch.compile cannot do that here."""
    from torch._dynamo.exc import TorchDynamoException  # seconds, which a trial that is not compiled does without
    from torch._inductor.exc import InductorError

    try:
        return compiled(x)  # type: ignore[no-any-return]
    except (TorchDynamoException, InductorError) as error:
        said = one_line(str(error).strip().splitlines()[0])
        raise ConfigError(f"compile is true, and torch.compile cannot do it here ({cut(said)}); set compile: false") from error


def as_targets(features: list[Tensor]) -> list[Tensor]:
    """Features in the precision of losses: what autocast left in bfloat16 becomes float32."""
    return [f.float() if f.dtype == torch.bfloat16 else f for f in features]


def forward_mode_student(problem: BilevelProblem, x: Any, w: Params, before: Moment) -> tuple[Tensor, list[Tensor]]:
    """Runs the student at parameters w that carry a tangent, or require a gradient: its logits and features.

    Buffers and random state are as just before the step.
    """
    set_random_state(before.random)  # the same dropout as in the step
    buffers = {name: buffer.clone() for name, buffer in before.buffers.items()}
    with plain_attention(), ShortTangents():  # and in float32: autocast has no forward mode
        logits, features = functional_call(problem.student, {**w, **buffers}, (x,))
    return logits, features
