"""What can be known to be wrong with a trial before anything is trained."""

from pathlib import Path

from kd_hpo.config.trial import TrialConfig
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.splits import Splits
from kd_hpo.errors import about
from kd_hpo.trial.assistants import assistant_trial
from kd_hpo.trial.data import load_unlabelled
from kd_hpo.trial.optimizers import require_rates
from kd_hpo.trial.parts import Progress, untrained_parts
from kd_hpo.trial.rehearsal import rehearse, rehearse_teacher
from kd_hpo.trial.start import steps_per_epoch
from kd_hpo.trial.teacher import require_trains_on_one


def check_trial(
    config: TrialConfig,
    batches: ImageBatches,
    splits: Splits,
    cache: Path,
    tell: Progress = lambda _: None,
    *,
    with_teacher: bool = True,
) -> None:
    """Checks the trial and those of its assistants by first steps of untrained networks on a few images.

    tell          is told what has been done to networks and files so that they fit here
    with_teacher  whether a teacher that is to be trained has a first step too
    Raises ConfigError, DataError or FeatureMismatch for networks, layers, weights and batches that do not go together.
    """
    load_unlabelled(config, batches, splits, cache, tell)  # before a teacher is trained
    for number, assistant in enumerate(config.assistants):
        with about(f"assistant {number + 1}"):
            trial = assistant_trial(config, assistant).replace(assistants=config.assistants[:number])
            check_alone(trial, batches, splits, cache, tell, with_teacher=False)
    check_alone(config, batches, splits, cache, tell, with_teacher=with_teacher)


def check_alone(
    config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path, tell: Progress, *, with_teacher: bool
) -> None:
    require_rates(config.training, config.training.epochs * steps_per_epoch(config, splits))
    prepared = untrained_parts(config, batches, splits, cache, tell)
    teacher = config.teacher
    training = teacher.training if with_teacher and teacher.weights is None and not config.assistants else None
    if training is not None and training.batch_size == 1:
        require_trains_on_one(prepared.teacher.network, batches, splits.train, "teacher.training.batch_size is 1")
    rehearse(config, prepared, tell)
    if training is not None:
        rehearse_teacher(prepared.teacher.network, teacher, prepared)
