"""A trial at its start, from its settings and from what trials share."""

import warnings
from dataclasses import replace

import torch
from torch import nn

from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.logit_losses import logit_loss
from kd_hpo.core.objective import Objective
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.splits import Splits
from kd_hpo.errors import ConfigError, DataError
from kd_hpo.nets.features import FeatureTap
from kd_hpo.trial.memory_rows import MemoryRows
from kd_hpo.trial.optimizers import require_rates
from kd_hpo.trial.parts import Prepared, Progress, build_student, layers_of
from kd_hpo.trial.problem import PairState
from kd_hpo.trial.schedule import Schedule
from kd_hpo.trial.state import Trial
from kd_hpo.trial.teacher import require_trains_on_one
from kd_hpo.trial.weighting import build_weighting, served_pairs


def start_trial(config: TrialConfig, prepared: Prepared, tell: Progress = warnings.warn) -> Trial:
    """A trial at step 0. Seeds torch's global generator, which a network's dropout reads.

    tell  is told of a student through which derivatives do not go the usual way
    """
    steps = steps_per_epoch(config, prepared.splits)
    torch.manual_seed(config.seed)
    if config.compile:
        torch.compiler.reset()  # of the trials before this one in the process; there is a limit to what is kept
    network = build_student(config, prepared.batches, prepared.cache)
    student = FeatureTap(network, layers_of(config, config.student.layers, network, prepared.batches))
    student.train()
    require_batches_of_more(config, network, prepared.batches, prepared.splits)
    require_rates(config.training, config.training.epochs * steps)
    pairs = start_pairs(config, prepared, tell) if config.weighting.paired else None
    loss, of_task = logit_loss(config.kd.kind, **config.kd.arguments()), config.kd.task_weight
    weight, smoothing = 1.0 if of_task is None else of_task, config.training.label_smoothing or 0.0
    objective = Objective(prepared.task, loss, config.kd.weight, task_weight=weight, smoothing=smoothing)
    return Trial(config, prepared, objective, schedule_of(config, steps, pairs), student, pairs, steps)


def steps_per_epoch(config: TrialConfig, splits: Splits) -> int:
    """Tells how many steps an epoch has. Raises DataError where the train split is less than one batch."""
    steps = len(splits.train) // config.training.batch_size
    if not steps:
        raise DataError(
            f"the train split has {len(splits.train)} images, less than one batch of {config.training.batch_size}; "
            "make training.batch_size smaller or splits.train larger"
        )
    return steps


def require_batches_of_more(config: TrialConfig, student: nn.Module, batches: ImageBatches, splits: Splits) -> None:
    """Checks that no batch of one image comes to a network that cannot be trained on one, as one with batch norm.

    Raises ConfigError where one would.
    """
    learning, batch_size = config.weighting.learning, config.training.batch_size
    if batch_size == 1:
        require_trains_on_one(student, batches, splits.train, "training.batch_size is 1")
    elif learning is not None and len(splits.outer[: learning.outer_batch]) == 1:
        said = (
            f"lambda looks at one image (weighting.outer_batch {learning.outer_batch}, of {len(splits.outer)} in the outer split)"
        )
        require_trains_on_one(student, batches, splits.outer, said)


def start_pairs(config: TrialConfig, prepared: Prepared, tell: Progress) -> PairState:
    plan, device, settings = prepared.plan, prepared.batches.device, config.pairs
    loss = pair_loss(settings.loss.kind, **settings.loss.arguments())
    weighting = build_weighting(config, plan, served_pairs(loss, plan, settings), device)
    learning = config.weighting.learning
    pairs = PairState.at_start(
        replace(plan, examples=len(prepared.splits.train)),
        loss,
        weighting,
        settings,
        learning,
        temperature=config.kd.temperature,
        seed=config.seed,
        device=device,
        tell=tell,
    )
    if pairs.losses.memory is not None:
        if learning is not None and learning.outer_objective == "task_and_pairs":
            raise ConfigError(
                f"pairs.loss {settings.loss.kind} keeps a memory of the training images and has none of the outer split's, so "
                "that weighting.outer_objective cannot be task_and_pairs; set task or task_and_teacher"
            )
        pairs.memory = MemoryRows.of_split(prepared.splits.train, prepared.batches)
    return pairs


def schedule_of(config: TrialConfig, steps_per_epoch: int, pairs: PairState | None) -> Schedule:
    steps = steps_per_epoch * config.training.epochs
    if pairs is None:
        return Schedule(steps)
    if pairs.direction is None:
        return Schedule(steps, config.pairs)
    return Schedule(steps, config.pairs, config.weighting.learning, pairs.direction)
