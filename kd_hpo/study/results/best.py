"""The best trials of a study, and what they hand on."""

from kd_hpo.config.arms import ARM
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.weightings import Matrix
from kd_hpo.study.results.arms import answer, best_by_search, winner
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
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


def start_of_lambda(study: StudyConfig, folder: StudyFolder, method: str) -> Matrix | None:
    """Gives the matrix that the best trial of the method's search has held, for its next one to start from.

    None where the study does not carry lambda on, where no trial is completed yet, or where the method learns no lambda.
    """
    if not study.search.carry_lambda or not (best := best_by_search(study, folder, method)):
        return None
    spec, result = best[0].spec, folder.result(best[0].spec.id)
    told = len({weight for row in result.held_mean for weight in row}) > 1  # equal weights are what lambda starts from anyway
    return result.held_mean if result.config.weighting.learning or (told and ARM in spec.settings) else None


def start_of_seeds(study: StudyConfig, folder: StudyFolder, method: str) -> Matrix | None:
    """Gives the matrix that the best trial of the method's search started from, for the trials of the comparison.

    Not the one it ended with: where a matrix is right late in a trial and wrong early in it, no trial that starts from one
    is the best. None where the best trial started without.
    """
    best = winner(study, folder, method) if study.search.carry_lambda else None
    return best.spec.start if best else None


def learned_trials(study: StudyConfig, folder: StudyFolder) -> list[tuple[TrialSpec, TrialResult]]:
    """Finds the completed trials that have learned their pair weights, best first by `search.by` after the last epoch.

    Where the search has come to an arm, those of this arm are before all others; it may hold its weights.
    """
    found = answer(study, folder, study.search.method)
    arm = found.arm if found else None
    done = [status.spec for status in folder.statuses() if status.state == "completed"]
    results = [(spec, folder.result(spec.id)) for spec in done]

    def of_answer(spec: TrialSpec) -> bool:
        return arm is not None and spec.settings.get(ARM) == arm

    learned = [(s, result) for s, result in results if result.held_mean and (result.config.weighting.learning or of_answer(s))]
    return sorted(learned, key=lambda entry: (not of_answer(entry[0]), -study.goal.merit(entry[1].last.metrics)))
