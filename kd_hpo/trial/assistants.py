"""Assistants between teacher and student (Mirzadeh et al. 2020): each a trial of its own, run once and kept in the cache."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from kd_hpo.callables import code_digest, modules_named
from kd_hpo.config.trial import Assistant, Student, Teacher, TrialConfig
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.splits import Splits
from kd_hpo.files import cached
from kd_hpo.nets.identity import network_digest
from kd_hpo.trial.effect import effect
from kd_hpo.trial.loop import LAST_WEIGHTS, train_prepared
from kd_hpo.trial.parts import Progress, build_student, prepare_teacher, prepared_parts
from kd_hpo.trial.teacher import HOW_FEATURES_ARE_READ


def taught_by_assistants(
    config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path, progress: Progress
) -> TrialConfig:
    """Gives the trial with its last assistant as its teacher, which was taught by the one before it, and so on."""
    for number, assistant in enumerate(config.assistants, 1):
        trial = assistant_trial(config, assistant)
        networks = prepare_teacher(trial, batches, splits, cache, progress).network, build_student(trial, batches, cache)
        kept = cache / f"assistant-{digest_of_training(trial, batches, splits, networks)}.safetensors"
        words = f"training assistant {number} of {len(config.assistants)}"
        weights = cached(
            kept,
            read=lambda there: there if there.is_file() else None,
            make=partial(train_assistant, trial, batches, splits, cache, kept.with_suffix(""), words, progress),
        )
        teacher = Teacher(
            network=assistant.network,
            layers=assistant.layers,
            weights=weights,
            **config.teacher.model_dump(include=set(HOW_FEATURES_ARE_READ)),
            seed=config.teacher.seed,
            accept_weak=True,  # it was trained here
        )
        config = config.replace(teacher=teacher.model_dump())
    return config.replace(assistants=())


def digest_of_training(trial: TrialConfig, batches: ImageBatches, splits: Splits, networks: Sequence[nn.Module]) -> str:
    """The digest of all that acts on the weights that a trial without assistants gives its student.

    networks  the teacher as it teaches, however it came to its weights, if it acts on them; then the student at its start
    """
    acting = effect(trial)
    for name in ("data", "splits"):  # the images themselves count, and of the splits those that train
        del acting[name]
    acting["teacher"] = acting["teacher"].get("layers")
    del acting["task"]["metric"]
    if acting["task"]["class_weights"] == "none":
        del acting["task"]["class_weights"]
    images: list[object] = [batches.images.digest, splits.digests["train"]]
    images += batches.normalisation.identity
    if batches.views is not None:
        images.append(batches.views.identity)
    if trial.teacher.cache_precision != "float32":
        images.append(trial.teacher.cache_precision)
    if trial.weighting.learning:
        images.append(splits.digests["outer"])
    code = code_digest(modules_named(acting))  # of losses of one's own
    identity = json.dumps([acting, images, code, *map(network_digest, networks)], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def assistant_trial(config: TrialConfig, assistant: Assistant) -> TrialConfig:
    """Makes the trial whose student is the assistant, on the same data; the student's settings and seed do not act on it."""
    return config.replace(
        assistants=(),
        student=Student(network=assistant.network, layers=assistant.layers).model_dump(),
        training=assistant.training.model_dump(),
        kd=assistant.kd.model_dump(),
        pairs=assistant.pairs.model_dump(),
        weighting=assistant.weighting.model_dump(),
        seed=config.teacher.seed,
    )


def train_assistant(
    trial: TrialConfig,
    batches: ImageBatches,
    splits: Splits,
    cache: Path,
    folder: Path,
    words: str,
    progress: Progress,
    weights: Path,
) -> None:
    """Trains an assistant, the student of the trial, and writes its weights to `weights`.

    folder  its checkpoint, should the training be interrupted
    """
    train_prepared(
        trial,
        prepared_parts(trial, batches, splits, cache, lambda _: None),
        lambda record: progress(f"{words}: epoch {record.epoch} of {trial.training.epochs}"),
        folder=folder,
    )
    (folder / LAST_WEIGHTS).replace(weights)
    shutil.rmtree(folder)
