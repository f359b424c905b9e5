"""Trains a teacher, once, and keeps its weights in the cache."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kd_hpo.config.trial import Teacher
from kd_hpo.data.augment import augmented
from kd_hpo.data.batches import ImageBatches, Indices, shuffled_batches
from kd_hpo.data.splits import Splits
from kd_hpo.errors import DataError, Diverged
from kd_hpo.nets.zoo import save_weights
from kd_hpo.trial.evaluate import Score, score
from kd_hpo.trial.optimizers import build_optimizer, build_schedule


@dataclass(frozen=True)
class TrainedTeacher:
    """A frozen teacher: in eval mode, no gradient ever flows into it."""

    network: nn.Module
    val: Score

    @classmethod
    def measured(cls, network: nn.Module, batches: ImageBatches, val: Indices) -> "TrainedTeacher":
        network.requires_grad_(False)
        network.eval()
        return cls(network, score(network, batches, val))


def train_teacher(
    network: nn.Module, config: Teacher, batches: ImageBatches, splits: Splits, path: Path, progress: Callable[[str], None]
) -> TrainedTeacher:
    """Plain cross-entropy on the train split (and the images of no split, where the settings say so); saved to `path`."""
    images = splits.train
    if config.images == "train_and_extra":
        images = np.concatenate([splits.train, splits.extra])
    training = config.training
    steps = training.epochs * (len(images) // training.batch_size)
    if not steps:
        raise DataError(
            f"the teacher has {len(images)} images, less than one batch of {training.batch_size}; give it more or smaller batches"
        )
    optimizer = build_optimizer(training.optimizer, network.parameters())
    schedule = build_schedule(training.lr_schedule, optimizer, steps)
    views = torch.Generator().manual_seed(config.seed)
    network.train()
    for epoch in range(training.epochs):
        progress(f"training the teacher: epoch {epoch + 1} of {training.epochs}")
        for batch in shuffled_batches(images, training.batch_size, config.seed, epoch):
            x = augmented(batches.inputs(batch), config.augment, views)
            loss = F.cross_entropy(network(x), batches.labels(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if not loss.isfinite():
            raise Diverged(f"the teacher's loss became {loss.item()} in epoch {epoch + 1}; lower teacher.training.optimizer.lr")
    save_weights(network.state_dict(), path)
    return TrainedTeacher.measured(network, batches, splits.val)
