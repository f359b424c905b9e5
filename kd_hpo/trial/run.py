"""One trial: student and pair weights learned together. It knows nothing of Ray or MLflow."""

from pathlib import Path

from kd_hpo.config.trial import TrialConfig
from kd_hpo.files import Write, write_atomically
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
    Raises Diverged with the step and the outer settings when a loss is not finite.
    """
    return train_prepared(config, prepared or prepare(config, cache), report, folder=folder, timed=timed, write=write)
