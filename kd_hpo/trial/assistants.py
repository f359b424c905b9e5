"""Assistants between teacher and student (Mirzadeh et al. 2020): each a trial of its own, run once and kept in the cache."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from kd_hpo.config.trial import Assistant, Student, Teacher, TrialConfig
from kd_hpo.files import only_one_process
from kd_hpo.trial.run import LAST_WEIGHTS, run_trial

Progress = Callable[[str], None]


def taught_by_assistants(config: TrialConfig, data_digest: str, cache: Path, progress: Progress) -> TrialConfig:
    """The trial with its last assistant as its teacher, which was taught by the one before it, and so on."""
    for number, assistant in enumerate(config.assistants, 1):
        trial = assistant_trial(config, assistant)
        taught_by = trial.teacher.weights and hashlib.sha256(trial.teacher.weights.read_bytes()).hexdigest()
        identity = json.dumps([trial.model_dump(mode="json"), data_digest, taught_by], sort_keys=True)
        weights = cache / f"assistant-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.safetensors"
        with only_one_process(weights.with_suffix(".lock")):
            if not weights.is_file():
                train_assistant(trial, weights, cache, f"training assistant {number} of {len(config.assistants)}", progress)
        teacher = Teacher(
            network=assistant.network,
            layers=assistant.layers,
            weights=weights,
            features=config.teacher.features,
            seed=config.teacher.seed,
        )
        config = config.replace(teacher=teacher.model_dump())
    return config.replace(assistants=())


def assistant_trial(config: TrialConfig, assistant: Assistant) -> TrialConfig:
    """The trial whose student is the assistant, on the same data; it does not depend on the student's settings or seed."""
    return config.replace(
        assistants=(),
        student=Student(network=assistant.network, layers=assistant.layers).model_dump(),
        training=assistant.training.model_dump(),
        kd=assistant.kd.model_dump(),
        pairs=assistant.pairs.model_dump(),
        weighting=assistant.weighting.model_dump(),
        seed=config.teacher.seed,
    )


def train_assistant(trial: TrialConfig, weights: Path, cache: Path, words: str, progress: Progress) -> None:
    folder = weights.with_suffix("")  # its checkpoint, should the training be interrupted
    run_trial(
        trial,
        lambda record: progress(f"{words}: epoch {record.epoch} of {trial.training.epochs}"),
        cache=cache,
        folder=folder,
    )
    (folder / LAST_WEIGHTS).replace(weights)
    shutil.rmtree(folder)
