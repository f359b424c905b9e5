"""What a step looks at, a batch as training sees it and what the teacher says of it, and the student's forward passes."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_hpo.config.wording import cut, one_line
from kd_hpo.core.pairs import Targets
from kd_hpo.core.params import Params
from kd_hpo.data.augment import View, view
from kd_hpo.data.batches import ImageBatches, Indices
from kd_hpo.errors import ConfigError
from kd_hpo.nets.forward_mode import ShortTangents, plain_attention
from kd_hpo.trial.randomness import NEGATIVES, SHUFFLE, VIEW, generator, random_state, set_random_state
from kd_hpo.trial.schedule import StepPlan
from kd_hpo.trial.state import PairState, Trial
from kd_hpo.trial.weighting import compared_examples


@dataclass(frozen=True)
class Moment:
    """The student just before a step, for the Jacobian of that step: parameters, buffers, random state."""

    parameters: Params
    buffers: Params
    random: dict[str, Tensor]


def remember(trial: Trial) -> Moment:
    return Moment({n: p.detach().clone() for n, p in trial.parameters.items()}, buffers_of(trial), random_state())


@dataclass(frozen=True)
class Seen:
    """A batch at a step."""

    view: View
    teacher: Tensor | None
    """(B, K), the teacher's output; None where no loss compares it."""
    targets: Targets | None
    """What the pairs compare with; None where the step has no pairs."""
    before: Moment | None
    """The student; None where nobody looks back to it."""


def see(trial: Trial, batch: Indices, due: StepPlan, *, remembers: bool) -> Seen:
    """The images as training sees them at this step, and as much of the teacher as the step's losses want.

    remembers  whether somebody looks back to the student as it is now
    """
    before, targets = remember(trial) if remembers else None, trial.prepared.targets
    if trial.pairs and due.stage != "task":
        needed = needed_pairs(trial, trial.pairs, due.measures_weighted_only if due.measures else due.weighted_only)
        sizes, compared = trial.pairs.losses.sizes(needed), compared_examples(trial.config, len(batch))
        seen = view_of(trial, batch)
        said = targets.batch(batch, seen.x, sizes, compared)
        read = with_labels(trial.pairs, pair_targets(trial, said), seen)
        return Seen(seen, said.logits, with_memory(trial, trial.pairs, read, batch, seen), before)
    seen = view_of(trial, batch)
    return Seen(seen, targets.logits(batch, seen.x) if trial.objective.logit_weight else None, None, before)


def needed_pairs(trial: Trial, pairs: PairState, weighted_only: bool) -> Tensor | None:
    """Tells which pairs have a weight now: True in (T, S); None for all."""
    return pairs.weighting.weights(trial.epoch) > 0 if weighted_only else None


def resting_numbers(trial: Trial, due: StepPlan) -> Mapping[nn.Parameter, Tensor]:
    """The numbers of the pairs' parameters that the step leaves out: True, in the parameter's shape."""
    return trial.pairs.losses.resting(needed_pairs(trial, trial.pairs, due.weighted_only)) if trial.pairs else {}


def view_of(trial: Trial, batch: Indices) -> View:
    """The images as training sees them at this step."""
    plain = plain_view(trial.prepared.batches, batch)
    if trial.prepared.batches.views is not None:  # `viewed` has chosen one
        return plain
    return view(plain.x, plain.labels, trial.augment, generator(trial.config.seed, VIEW, trial.step))


def plain_view(batches: ImageBatches, batch: Indices) -> View:
    """The images of a batch as they are."""
    labels = batches.labels(batch)
    return View(batches.inputs(batch), labels, labels, 1.0)


def viewed(trial: Trial, images: Indices) -> Indices:
    """The numbers of the images as they are seen in this epoch: of a view that is kept, where views are."""
    return trial.prepared.batches.viewed(images, trial.step // trial.steps_per_epoch)


def pair_targets(trial: Trial, targets: Targets) -> Targets:
    """The targets that the pairs compare with: where they are shuffled, each example gets another one's."""
    if trial.config.pairs.targets == "teacher":
        return targets

    def shuffled(rows: Tensor) -> Tensor:
        order = torch.randperm(len(rows), generator=generator(trial.config.seed, SHUFFLE, trial.step))
        return rows[order.to(rows.device)]

    return Targets(shuffled(targets.logits), {size: shuffled(block) for size, block in targets.blocks.items()})


def with_labels(pairs: PairState, targets: Targets, seen: View) -> Targets:
    """The targets with the labels of the images, where a pair reads them."""
    if not pairs.losses.reads_labels:
        return targets
    own, other = (F.one_hot(labels, targets.logits.shape[1]).to(targets.logits) for labels in (seen.labels, seen.partners))
    return replace(targets, shares=seen.share * own + (1 - seen.share) * other)


def with_memory(trial: Trial, pairs: PairState, targets: Targets, batch: Indices, seen: View) -> Targets:
    """The targets with where the images and some of other classes stand in the memory, where a pair has one."""
    if pairs.memory is None or pairs.losses.memory is None:
        return targets
    chance, count = generator(trial.config.seed, NEGATIVES, trial.step), targets.compared
    negatives = pairs.memory.of_other_classes(seen.labels[:count], pairs.losses.memory.negatives, chance)
    rows = torch.from_numpy(pairs.memory.rows(batch[:count]))
    return replace(targets, rows=rows.to(trial.device), negatives=negatives.to(trial.device))


# ---- forward passes


def buffers_of(trial: Trial) -> Params:
    """Copies of the student's buffers, for passes that must not move them."""
    return {name: buffer.clone() for name, buffer in trial.student.named_buffers()}


def run_student(trial: Trial, x: Tensor, state: Params) -> tuple[Tensor, list[Tensor]]:
    """The student's output, in the precision of losses, and its features as they are; `state` stands in for its tensors."""
    given = partial(functional_call, trial.student, state, (x,)) if state else partial(plain_pass, trial, x)
    learning = trial.schedule.learning is not None  # its step and the Jacobian of the step run alike
    with trial.prepared.batches.autocast(), plain_attention() if learning else nullcontext():
        output, features = given()
    return output.to(trial.prepared.batches.dtype), features


def plain_pass(trial: Trial, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Runs the student, compiled where the trial asks for it. Raises ConfigError where torch.compile cannot do that here."""
    if not trial.config.compile:
        return trial.student(x)  # type: ignore[no-any-return]
    from torch._dynamo.exc import TorchDynamoException  # seconds, which a trial that is not compiled does without
    from torch._inductor.exc import InductorError

    try:
        return trial.compiled(x)  # type: ignore[no-any-return]
    except (TorchDynamoException, InductorError) as error:
        said = one_line(str(error).strip().splitlines()[0])
        raise ConfigError(f"compile is true, and torch.compile cannot do it here ({cut(said)}); set compile: false") from error


def as_targets(features: list[Tensor]) -> list[Tensor]:
    """Features in the precision of losses: what autocast left in bfloat16 becomes float32."""
    return [f.float() if f.dtype == torch.bfloat16 else f for f in features]


def forward_mode_student(trial: Trial, x: Tensor, w: Params, before: Moment) -> tuple[Tensor, list[Tensor]]:
    """Runs the student at parameters w that carry a tangent, or require a gradient: its logits and features.

    Buffers and random state are as just before the step.
    """
    set_random_state(before.random)  # the same dropout as in the step
    buffers = {name: buffer.clone() for name, buffer in before.buffers.items()}
    with plain_attention(), ShortTangents():  # and in float32: autocast has no forward mode
        logits, features = functional_call(trial.student, {**w, **buffers}, (x,))
    return logits, features
