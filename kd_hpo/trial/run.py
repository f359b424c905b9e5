"""One trial: student and pair weights learned together. It knows nothing of Ray or MLflow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kd_hpo.config.trial import TrialConfig
from kd_hpo.errors import ConfigError
from kd_hpo.files import Write, write_atomically
from kd_hpo.trial.given import Data, with_objects
from kd_hpo.trial.loop import Report, Timed, train_prepared
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.result import TrialResult


def run_trial(
    config: TrialConfig,
    report: Report,
    *,
    cache: Path,
    folder: Path | None = None,
    prepared: Prepared | None = None,
    timed: Timed = lambda _: None,
    write: Write = write_atomically,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    data: Data | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrialResult:
    """Learns student and pair weights together, epoch by epoch; continues where a checkpoint in `folder` stands.

    The weights move along the hypergradient of held-out data (Lorraine et al. 2020; Pedregosa 2016), one direction of
    `weighting.direction`, by mirror descent on the simplex.
    report    is told every epoch once it is safe on disk; a continued trial tells the earlier ones again, first
    cache     what trials share is read from here, or made here first
    folder    where the checkpoint and the student's weights (last, and best by `val`) are written; None writes nothing
    prepared  what `prepare(config, cache)` gave, if the caller has it
    timed     is told how long the training of each epoch took, before its report
    write     puts files in their place in `folder`
    teacher, student, data
              objects in the place of what the settings name: modules, of which copies are used, the teacher with the weights
              that it has; a torch data set of (image, label), or two, train and test
    overrides settings by their dotted paths
    The student that was trained is the result's `student`.
    Raises Diverged with the step and the outer settings when a loss is not finite.
    """
    if teacher is not None or student is not None or data is not None or overrides:
        if prepared is not None:
            raise ConfigError("prepared is of the settings without the objects and overrides that are given; leave it out")
        config = with_objects(config, teacher=teacher, student=student, data=data, overrides=overrides)
    return train_prepared(config, prepared or prepare(config, cache), report, folder=folder, timed=timed, write=write)
