"""The best trials of a study, and what they hand on."""

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.weightings import Matrix
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.trial.result import TrialResult

SEARCHED = 100_000
"""What is added to the study's seed for the trials of its searches: a comparison has 10,000 seeds at most, from the study's own
on. What was found to be the best at a seed is so by chance too, and would have that chance once more in a comparison there."""


def seed_of_searches(study: StudyConfig, folder: StudyFolder) -> int:
    """The seed of every trial of the study's searches: none of the comparison's seeds.

    Searches that an earlier version began, at the comparison's first one, go on with it: their trials are compared.
    """
    begun = (status.spec.seed for status in folder.statuses() if status.spec.kind == "search")
    return next(begun, study.seed + SEARCHED)


def searched_trials(folder: StudyFolder, method: str) -> list[TrialStatus]:
    return [status for status in folder.statuses() if status.spec.kind == "search" and status.spec.method == method]


def best_searched(study: StudyConfig, folder: StudyFolder, method: str) -> TrialStatus | None:
    """Finds the completed trial of the method's search that is the best by `search.by` after its last epoch."""
    completed = [s for s in searched_trials(folder, method) if s.state == "completed"]
    return max(completed, key=lambda status: study.goal.merit(folder.records(status.spec.id)[-1].metrics), default=None)


def start_of_lambda(study: StudyConfig, folder: StudyFolder, method: str) -> Matrix | None:
    """Gives the matrix that the best trial of the method's search has held, for its next one to start from.

    None where the study does not carry lambda on, where no trial is completed yet, or where the method learns no lambda.
    """
    best = best_searched(study, folder, method) if study.search.carry_lambda else None
    result = folder.result(best.spec.id) if best else None
    return result.held_mean if result and result.config.weighting.learning else None


def start_of_seeds(study: StudyConfig, folder: StudyFolder, method: str) -> Matrix | None:
    """Gives the matrix that the best trial of the method's search started from, for the trials of the comparison.

    Not the one it ended with: where a matrix is right late in a trial and wrong early in it, no trial that starts from one
    is the best. None where the best trial started without.
    """
    best = best_searched(study, folder, method) if study.search.carry_lambda else None
    return best.spec.start if best else None


def learned_trials(study: StudyConfig, folder: StudyFolder) -> list[tuple[TrialSpec, TrialResult]]:
    """Finds the completed trials that have learned their pair weights, best first by `search.by` after the last epoch."""
    done = [status.spec for status in folder.statuses() if status.state == "completed"]
    results = [(spec, folder.result(spec.id)) for spec in done]
    learned = [(spec, result) for spec, result in results if result.config.weighting.learning]
    return sorted(learned, key=lambda entry: -study.goal.merit(entry[1].last.metrics))
