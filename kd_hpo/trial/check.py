"""What can be known to be wrong with a trial before anything is trained."""

from functools import partial
from pathlib import Path

from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.splits import Splits
from kd_hpo.errors import about
from kd_hpo.trial.assistants import assistant_trial
from kd_hpo.trial.parts import build, build_student, plan_before_training, task_of
from kd_hpo.trial.start import require_batches_of_more, steps_per_epoch
from kd_hpo.trial.teacher import require_trains_on_one
from kd_hpo.trial.weighting import build_weighting, served_pairs


def check_trial(config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path) -> None:
    """Of the trial and of those of its assistants, by a dry run of untrained networks.

    Raises ConfigError, DataError or FeatureMismatch for networks, layers, weights and batches that do not go together.
    """
    for number, assistant in enumerate(config.assistants):
        with about(f"assistant {number + 1}"):
            taught_by = config.assistants[:number]
            check_alone(assistant_trial(config, assistant).replace(assistants=taught_by), batches, splits, cache)
    check_alone(config, batches, splits, cache)


def check_alone(config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path) -> None:
    steps_per_epoch(config, splits)
    plan = plan_before_training(config, batches, cache)
    require_batches_of_more(config, partial(build_student, config, batches, cache), batches, splits)
    training = config.teacher.training
    if training and training.batch_size == 1 and config.teacher.weights is None:
        teacher = build(config.teacher.network, batches, task_of(config, batches), seed=config.teacher.seed)
        require_trains_on_one(teacher, batches, splits.train, "teacher.training.batch_size is 1")
    if config.weighting.paired:
        loss = pair_loss(config.pairs.loss.kind, **config.pairs.loss.arguments())
        build_weighting(config, plan, served_pairs(loss, plan, config.pairs))
