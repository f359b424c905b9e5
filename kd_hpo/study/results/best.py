"""The best trial of a search, and what it hands on."""

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.weightings import LearnedWeights, Matrix
from kd_hpo.study.store.folder import StudyFolder, TrialStatus
from kd_hpo.trial.result import GOALS


def searched_trials(folder: StudyFolder, method: str) -> list[TrialStatus]:
    return [status for status in folder.statuses() if status.spec.kind == "search" and status.spec.method == method]


def best_searched(study: StudyConfig, folder: StudyFolder, method: str) -> TrialStatus | None:
    """The completed trial of the method's search that is the best by `search.by` after its last epoch."""
    completed = [s for s in searched_trials(folder, method) if s.state == "completed"]
    return max(completed, key=lambda status: GOALS[study.search.by].merit(folder.records(status.spec.id)[-1]), default=None)


def start_of_lambda(study: StudyConfig, folder: StudyFolder, method: str) -> Matrix | None:
    """The matrix that the best trial of the method's search has held, for its next one to start from.

    None where the study does not carry lambda on, where no trial is completed yet, or where the method learns no lambda.
    """
    best = best_searched(study, folder, method) if study.search.carry_lambda else None
    result = folder.result(best.spec.id) if best else None
    return result.held_mean if result and isinstance(result.config.weighting, LearnedWeights) else None


def start_of_seeds(study: StudyConfig, folder: StudyFolder, method: str) -> Matrix | None:
    """The matrix that the best trial of the method's search started from, for the trials of the comparison.

    Not the one it ended with: where a matrix is right late in a trial and wrong early in it, no trial that starts from one
    is the best. None where the best trial started without.
    """
    best = best_searched(study, folder, method) if study.search.carry_lambda else None
    return best.spec.start if best else None
