"""Trains a teacher, once, and keeps its weights in the cache."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from kd_hpo.callables import code_digest, modules_named
from kd_hpo.config.training import Training
from kd_hpo.config.trial import Teacher
from kd_hpo.config.wording import cut, one_line
from kd_hpo.core.tasks import Task, training_loss
from kd_hpo.data.augment import view
from kd_hpo.data.batches import ImageBatches, Indices, shuffled_batches
from kd_hpo.data.normalise import Normalisation
from kd_hpo.data.splits import Splits
from kd_hpo.errors import ConfigError, DataError, Diverged
from kd_hpo.files import cached
from kd_hpo.nets.features import freeze
from kd_hpo.nets.identity import network_digest
from kd_hpo.nets.outputs import one_tensor, require_output
from kd_hpo.nets.weights import load_weights, save_weights
from kd_hpo.trial.average import Average
from kd_hpo.trial.data import steps_of
from kd_hpo.trial.evaluate import Score, score
from kd_hpo.trial.optimizers import build_optimizer, build_schedule, clip_gradients, require_rates
from kd_hpo.trial.randomness import random_state_kept

Progress = Callable[[str], None]

HOW_FEATURES_ARE_READ = frozenset({"features", "cached_views", "cache_precision", "cache_gb"})
"""Fields of Teacher that its own training does not depend on."""
_TOLD_BY_THE_NETWORK = frozenset({"normalise", "input", "returns"})
"""Those whose effect is in the network's digest."""


@dataclass(frozen=True)
class TrainedTeacher:
    """A frozen teacher: in eval mode, no gradient ever flows into it."""

    network: nn.Module
    val: Score
    weights: Path | None
    """Where they come from; None for a network that is taken as it is built."""
    reads: Normalisation
    """How the pixels become the numbers that it reads."""

    @classmethod
    def measured(
        cls, network: nn.Module, task: Task, batches: ImageBatches, val: Indices, weights: Path | None
    ) -> "TrainedTeacher":
        freeze(network).eval()
        return cls(network, score(network, task, batches, val), weights, batches.normalisation)


def trained_teacher(
    network: nn.Module, config: Teacher, task: Task, batches: ImageBatches, splits: Splits, cache: Path, progress: Progress
) -> TrainedTeacher:
    """Gives the network with the weights that its training gives: from the cache, or trained now; as it is, without training."""
    training = config.training
    if training is None:
        return TrainedTeacher.measured(network, task, batches, splits.val, None)
    excluded = {"layers", "weights", "weights_key", "accept_weak", *_TOLD_BY_THE_NETWORK, *HOW_FEATURES_ARE_READ}
    told = config.model_dump(mode="json", exclude=excluded)
    acts = {name: value for name, value in vars(task).items() if name != "metric" and value is not None}
    trained_for = [f"{type(task).__module__}:{type(task).__qualname__}", acts]
    about: list[object] = [told, trained_for, network_digest(network), batches.images.digest, batches.precision]
    about += batches.normalisation.identity
    about += [code_digest(own) for own in [modules_named(told["augment"])] if own]
    identity = json.dumps([*about, splits.digests["train"], splits.digests["extra"]], sort_keys=True)

    def train(new: Path) -> None:
        images = splits.train
        if config.images == "train_and_extra":
            images = np.concatenate([splits.train, splits.extra])
        with random_state_kept():
            torch.manual_seed(config.seed)  # for its dropout
            train_teacher(network, config, training, task, batches, images, progress)
        save_weights(network.state_dict(), new)

    path = cached(
        cache / f"teacher-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.safetensors",
        read=lambda there: there if loads(network, there) else None,
        make=train,
    )
    return TrainedTeacher.measured(network, task, batches, splits.val, path)


def loads(network: nn.Module, path: Path) -> bool:
    """Reads the file into the network, and tells whether it did: not where it is missing, truncated or not of this network."""
    try:
        load_weights(network, path)
    except ConfigError:
        return False
    return True


def require_trains_on_one(network: nn.Module, batches: ImageBatches, images: Indices, said: str) -> None:
    """Checks that a network takes a batch of one image in training, as one with batch norm does not.

    Raises ConfigError, with what leads to it, where it does not.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    training = network.training
    try:
        with torch.no_grad(), random_state_kept(), batches.autocast():
            functional_call(network.train(), buffers, (batches.inputs(images[:1]),))
    except ValueError as error:
        raise ConfigError(
            f"{said}, and {type(network).__name__} cannot be trained on one image ({cut(one_line(str(error)))}): batch norm "
            "needs two values of each channel; give it two images or more, or take a network without batch norm"
        ) from error
    finally:
        network.train(training)


def train_teacher(
    network: nn.Module,
    config: Teacher,
    training: Training,
    task: Task,
    batches: ImageBatches,
    images: Indices,
    progress: Progress,
) -> None:
    """Trains a network by the task's loss alone, on the images.

    Raises Diverged with what to lower, and DataError where the images are less than one batch.
    """
    steps = training.epochs * (len(images) // training.batch_size)
    if not steps:
        raise DataError(
            f"the teacher has {len(images)} images, less than one batch of {training.batch_size}; give it more or smaller batches"
        )
    if training.batch_size == 1:
        require_trains_on_one(network, batches, images, "teacher.training.batch_size is 1")
    require_rates(training, steps)
    optimizer = build_optimizer(training, network)
    schedule, average = build_schedule(training, optimizer, steps), Average(training.ema, network) if training.ema else None
    loss_of = training_loss(task, training.label_smoothing or 0.0)
    views, steps_seen = torch.Generator().manual_seed(config.seed), steps_of(config.augment, batches)
    network.train()
    for epoch in range(training.epochs):
        progress(f"training the teacher: epoch {epoch + 1} of {training.epochs}")
        for batch in batches.ahead(shuffled_batches(images, training.batch_size, config.seed, epoch)):
            seen = view(batches.inputs(batch), batches.labels(batch), steps_seen, views)
            with batches.autocast():
                output = require_output(network, network(seen.x), one_tensor).to(batches.dtype)
            loss = seen.over_labels(partial(loss_of, output))
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(training, network)
            optimizer.step()
            schedule.step()
            if average:
                average.update()
        if not loss.isfinite():
            raise Diverged(f"the teacher's loss became {loss.item()} in epoch {epoch + 1}; lower teacher.training.optimizer.lr")
    if average:
        average.stay()
