"""A trial's first steps on a few images, before anything is trained: what a network or loss cannot do in training shows here."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import ceil

import torch
from torch import nn

from kd_hpo.config.pairs import Pairs
from kd_hpo.config.training import TorchSchedule
from kd_hpo.config.trial import Teacher, TrialConfig
from kd_hpo.config.wording import one_line
from kd_hpo.data.splits import Splits
from kd_hpo.errors import ConfigError, Diverged, KdHpoError, about
from kd_hpo.nets.features import freeze
from kd_hpo.nets.outputs import require_output
from kd_hpo.nets.weights import extra_state
from kd_hpo.trial.data import steps_of
from kd_hpo.trial.evaluate import score
from kd_hpo.trial.optimizers import build_optimizer, require_rates
from kd_hpo.trial.parts import Prepared, Progress
from kd_hpo.trial.randomness import random_state_kept
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.steps import train_step

IMAGES = 8
"""Of a step, where a batch has more: enough for norms over the batch, and quick."""
_FIRST, _STEPS = 1, 3
"""Lambda learns at step 2; a direction that looks back has the one before to see."""
_SHORT = ("steps", "terms", "iterations")
"""Settings of directions that say how much work they do."""


def rehearse(config: TrialConfig, prepared: Prepared, tell: Progress = lambda _: None) -> None:
    """Takes a student's first steps with all that is due in any: pairs, balance, hypergradient along the direction, update.

    Leaves torch's random state as it was. Raises ConfigError for whatever goes wrong, in one line that says where.
    """
    short = _shortened(config, prepared.splits)
    student = f"the student {config.student.network.name}"
    taught_by = config.assistants[-1] if config.assistants else config.teacher
    with random_state_kept(), _in_words(f"a first step of {student}, taught by {taught_by.network.name},"):
        trial = start_trial(short, prepared, tell)
        with trial.student:
            trial.step = _FIRST
            images = trial.viewed(prepared.splits.train[: short.training.batch_size])
            losses = train_step(trial, images).stacked()
            with suppress(Diverged):  # by its learning rate, say: that is for the trial to find
                for _ in range(_FIRST + 1, _STEPS):
                    train_step(trial, images)
            extra_state(trial.student.network.state_dict())
            score(trial.student, prepared.task, prepared.batches, prepared.splits.train[:IMAGES])
    if not losses.isfinite().all():
        task, kd, pairs, _ = losses.tolist()
        raise ConfigError(
            f"{student} has a loss that is not finite in its first step (task {task:g}, kd {kd:g}, pairs {pairs:g}); see whether "
            "both networks return finite numbers for these images"
        )


def rehearse_teacher(network: nn.Module, teacher: Teacher, prepared: Prepared) -> None:
    """Takes a step of the teacher's own training, without its update, which leaves the network as that does.

    Raises as `rehearse`.
    """
    assert teacher.training is not None
    batches, task = prepared.batches, prepared.task
    training = teacher.training
    steps_of(teacher.augment, batches)
    build_optimizer(training, network)
    require_rates(training, training.epochs * (len(prepared.splits.train) // training.batch_size))
    images = prepared.splits.train[: min(teacher.training.batch_size, IMAGES)]
    what = f"a first step of the teacher {teacher.network.name}"
    with random_state_kept(), _in_words(what), torch.enable_grad(), about("teacher, in training"):
        freeze(network, False).train()
        with batches.autocast():
            output = require_output(network, network(batches.inputs(images)), task.refuses).to(batches.dtype)
        task.loss(output, batches.labels(images)).backward()


def _shortened(config: TrialConfig, splits: Splits) -> TrialConfig:
    """The trial with few images in a step and little work of its direction, and lambda learning in it."""
    batch = config.training.batch_size
    learning = config.weighting.learning
    changes: dict[str, object] = {
        "training": config.training.model_dump()
        | {"batch_size": min(batch, IMAGES), "epochs": max(config.training.epochs, _STEPS)}
        | ({"lr_schedule": "constant"} if isinstance(config.training.lr_schedule, TorchSchedule) else {}),
        "compile": False,
        "pairs": config.pairs.model_dump() | {"stages": Pairs().stages.model_dump(), "schedule": None},
        "kd": config.kd.model_dump() | {"schedule": None},  # which may leave it out at first
    }
    if learning is not None:
        outer = min(learning.outer_batch, len(splits.outer))
        smallest = outer // max(ceil(outer / batch), 1)
        direction = learning.direction
        less = {name: min(getattr(direction, name), 2) for name in _SHORT if name in type(direction).model_fields}
        often = {"every": 2, "warmup": 0.0, "hold": 0.0, "outer_batch": max(min(smallest, IMAGES), min(outer, 2))}
        changes["weighting"] = learning.replace(direction=direction.replace(**less).model_dump(), **often).model_dump()
    return config.replace(**changes)


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Whatever torch or a user's own code raises inside, as one line."""
    try:
        yield
    except KdHpoError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in at if not any(part in frame.filename for part in ("/torch/", "/kd_hpo/", "<"))]
        where = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
        said = one_line(f"{type(error).__name__}: {error}")[:300]
        raise ConfigError(f"{what} ends in {said}{where}") from error
