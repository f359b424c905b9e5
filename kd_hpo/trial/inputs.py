"""What a step looks at: a batch as training sees it, and what the teacher says of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_hpo.core.pairs import Targets
from kd_hpo.data.augment import View, view
from kd_hpo.data.batches import Indices
from kd_hpo.trial.randomness import SHUFFLE, VIEW, generator
from kd_hpo.trial.schedule import StepPlan
from kd_hpo.trial.state import PairState, Trial
from kd_hpo.trial.weighting import compared_examples


@dataclass(frozen=True)
class Seen:
    """A batch at a step."""

    view: View
    teacher: Tensor | None
    """(B, K), the teacher's output; None where no loss compares it."""
    targets: Targets | None
    """What the pairs compare with; None where the step has no pairs."""


def see(trial: Trial, batch: Indices, due: StepPlan) -> Seen:
    """The images as training sees them at this step, and as much of the teacher as the step's losses want."""
    seen, targets = view_of(trial, batch), trial.prepared.targets
    if trial.pairs and due.stage != "task":
        needed = needed_pairs(trial, trial.pairs, due.measures_weighted_only if due.measures else due.weighted_only)
        compared = compared_examples(trial.config, len(batch))
        said = targets.batch(batch, seen.x, trial.pairs.losses.sizes(needed), compared)
        return Seen(seen, said.logits, pair_targets(trial, said))
    return Seen(seen, targets.logits(batch, seen.x) if trial.objective.logit_weight else None, None)


def needed_pairs(trial: Trial, pairs: PairState, weighted_only: bool) -> Tensor | None:
    """(T, S), True for the pairs that have a weight now; None for all."""
    return pairs.weighting.weights(trial.epoch) > 0 if weighted_only else None


def view_of(trial: Trial, batch: Indices) -> View:
    batches = trial.prepared.batches
    x, labels = batches.inputs(batch), batches.labels(batch)
    if batches.views is not None:  # `viewed` has chosen one
        return view(x, labels, (), torch.Generator())
    return view(x, labels, trial.config.augment, generator(trial.config.seed, VIEW, trial.step))


def viewed(trial: Trial, images: Indices) -> Indices:
    """The numbers of the images as they are seen in this epoch: of a view that is kept, where views are."""
    return trial.prepared.batches.viewed(images, trial.step // trial.steps_per_epoch)


def pair_targets(trial: Trial, targets: Targets) -> Targets:
    """What the pairs compare with: where the targets are shuffled, each example gets another one's."""
    if trial.config.pairs.targets == "teacher":
        return targets

    def shuffled(rows: Tensor) -> Tensor:
        order = torch.randperm(len(rows), generator=generator(trial.config.seed, SHUFFLE, trial.step))
        return rows[order.to(rows.device)]

    return Targets(shuffled(targets.logits), {size: shuffled(block) for size, block in targets.blocks.items()})
