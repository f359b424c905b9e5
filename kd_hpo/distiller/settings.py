"""What a distiller is told: the settings of a trial that a training loop of one's own has not got itself."""

from typing import Any

from pydantic import ValidationError

from kd_hpo.config.explain import as_error, explain
from kd_hpo.config.pairs import Contrast, Distillation, LogitLoss, Pairs, PairsFirst
from kd_hpo.config.settings import Seed, Settings
from kd_hpo.config.training import WarmUp
from kd_hpo.config.weightings import ExportedMatrix, LearnedWeights, Weighting
from kd_hpo.errors import ConfigError


class Distilling(Settings):
    """The settings of a distiller; each means what it means in a trial (`kd_hpo.config.trial.TrialConfig`)."""

    kd: LogitLoss = Distillation()
    pairs: Pairs = Pairs()
    weighting: Weighting = LearnedWeights()
    seed: Seed = 0
    """Of the regressors' start, and of all that is random in the pairs and their weights."""


def distilling(**given: Any) -> Distilling:
    """Checks settings, each an object or a mapping. Raises ConfigError with a line for each mistake."""
    try:
        settings = Distilling.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise as_error(explain(error, Distilling), lambda keys: "the distiller's settings") from error
    if isinstance(settings.pairs.stages, PairsFirst):
        raise ConfigError(
            "pairs.stages is pairs_first, which starts the student's optimiser and learning rate anew, and they are your loop's; "
            "leave the stages together, or train with kd_hpo.run_trial"
        )
    if settings.kd.task_weight not in (None, 1):
        raise ConfigError(
            f"kd.task_weight is {settings.kd.task_weight:g}, which multiplies your loop's own loss: multiply it there, and leave "
            "task_weight out"
        )
    for name, schedule in (("kd", settings.kd.schedule), ("pairs", settings.pairs.schedule)):
        if isinstance(schedule, WarmUp) and schedule.epochs < 1:
            raise ConfigError(
                f"{name}.schedule.epochs is {schedule.epochs:g}, a share of all epochs, and how many your loop has is its own "
                "affair; give their number, as end_epoch() counts them"
            )
    if isinstance(settings.pairs.loss, Contrast):
        raise ConfigError(
            "pairs.loss is crd, which remembers the training images by their numbers, and your loop's batches have none; take "
            "another loss, or train with kd_hpo.run_trial"
        )
    if isinstance(settings.weighting, ExportedMatrix):
        raise ConfigError("weighting names an export; Distiller.from_export reads it")
    return settings
