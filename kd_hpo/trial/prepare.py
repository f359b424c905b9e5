"""What every trial of a study shares, its assistants' training among it: made once and kept in the cache."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_hpo.config.pairs import Distillation, Pairs
from kd_hpo.config.training import Training
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import NoPairs, Uniform
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.trial.agreement import opinion_of
from kd_hpo.trial.assistants import taught_by_assistants
from kd_hpo.trial.data import load_data, load_unlabelled
from kd_hpo.trial.parts import Prepared, Progress, plan_before_training, prepare_teacher, prepared_parts, reads_online


def prepare(config: TrialConfig, cache: Path, progress: Progress = lambda _: None, *, outer_trains: bool = False) -> Prepared:
    """Makes, or finds in the cache, all that the trial reads. `progress` is told in words what is being made.

    outer_trains  the outer split's images train the student too, of a teacher who has not been trained on them
    Raises DataError, ConfigError or FeatureMismatch with what to change.
    """
    config = shared_settings(config)
    reads_online(config)
    batches, splits = load_data(config, cache, progress)
    unlabelled = load_unlabelled(config, batches, splits, cache, progress)
    taught = config
    if config.assistants:
        plan_before_training(config, batches, cache)  # layers that do not exist are told before anything is trained
        taught = taught_by_assistants(config, batches, splits, cache, progress)
    parts = prepared_parts(taught, batches, splits, cache, progress, outer_trains=outer_trains)
    teacher = prepare_teacher(config, batches, splits, cache, lambda _: None) if config.assistants else parts.teacher
    asked = {"val": (batches, splits.val)} | ({"unlabelled": unlabelled} if unlabelled else {})
    progress("reading the teacher's outputs for held-out images")
    opinions = {name: opinion_of(teacher.network, of, images, cache, f"images of {name}") for name, (of, images) in asked.items()}
    return replace(parts, opinions=opinions)


def shared_settings(config: TrialConfig) -> TrialConfig:
    """The trial with all that `prepare` does not depend on as it is by default: trials that agree in the rest may share it.

    What is not named here is kept, so that a setting which is forgotten costs a preparation, and shares nothing wrongly.
    """
    if not config.weighting.paired:
        pairs, weighting = Pairs().model_dump(), NoPairs().model_dump()
    else:
        pairs, weighting = config.pairs.replace(**_of_pairs_alone(config.pairs)).model_dump(), Uniform().model_dump()
    return config.replace(
        training=Training(epochs=1).model_dump(),
        kd=Distillation().model_dump(),
        pairs=pairs,
        weighting=weighting,
        seed=0,
        compile=False,
    )


def _of_pairs_alone(pairs: Pairs) -> dict[str, Any]:
    """Of the pairs, what acts on their training alone; of a loss, its settings where its targets are those of the default."""
    default = Pairs()
    alone = {name: getattr(default, name) for name in _TRAINING_OF_PAIRS}
    if pairs.loss.kind != "callable":
        plain = type(pairs.loss)()
        given, usual = (pair_loss(loss.kind, **loss.arguments()) for loss in (pairs.loss, plain))
        if (given.meet, given.standardised) == (usual.meet, usual.standardised):
            alone["loss"] = plain
    return {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in alone.items()}


_TRAINING_OF_PAIRS = ("strength", "batch_share", "regressor_lr", "balance", "stages", "unserved", "targets", "schedule")
