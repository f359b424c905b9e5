"""Which arm of a search is the study's answer: its best ones race at seeds of their own, and the best of the race it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from kd_hpo.config.arms import ARM, ARMS
from kd_hpo.config.search import ArmName
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Goal
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus

RACED = 200_000
"""What is added to the study's seed for the trials of a race: no search and no comparison has those seeds."""
NAN = float("nan")


@dataclass(frozen=True)
class Answer:
    """The arm that a study's search has come to, and by how much it is ahead."""

    arm: ArmName
    seeds: int
    """Of the race; 0 where there was none, and the answer is the arm of the best trial."""
    ahead: float
    """The best arm that learns lambda less the best control, of the task's metric on `val`: the mean over the race's seeds;
    nan where one of the two is missing."""
    error: float
    """Its standard error, by paired differences; nan of fewer than two seeds."""
    learning: ArmName | None
    """The best arm that learns lambda."""
    control: ArmName | None
    """The best one that does not."""

    @property
    def title(self) -> str:
        """How a person reads the arm."""
        return ARMS[self.arm].title

    @property
    def learns(self) -> bool:
        """Whether lambda moves in it."""
        return ARMS[self.arm].learns


def searched_trials(folder: StudyFolder, method: str) -> list[TrialStatus]:
    return [status for status in folder.statuses() if status.spec.kind == "search" and status.spec.method == method]


def best_by_search(study: StudyConfig, folder: StudyFolder, method: str) -> list[TrialStatus]:
    """Finds the completed trials of the method's search, best first by `search.by` after the last epoch."""
    completed = [status for status in searched_trials(folder, method) if status.state == "completed"]
    return sorted(completed, key=lambda status: -_merit(study.goal, folder, status.spec.id))


def runners(study: StudyConfig, folder: StudyFolder, method: str) -> list[TrialStatus]:
    """Finds the trials whose arms race: of each of the best arms its best trial, the best first.

    The best arm that learns lambda and the best control are among them. Empty where there is nothing to choose: no arms, or one.
    """
    tried = {status.spec.settings.get(ARM) for status in searched_trials(folder, method) if status.state == "completed"}
    if len(tried - {None}) < 2:  # before the records of thousands of trials are read
        return []
    of_arm = dict[ArmName, TrialStatus]()
    for status in best_by_search(study, folder, method):
        if ARM in status.spec.settings:
            of_arm.setdefault(status.spec.settings[ARM], status)
    kinds = {ARMS[arm].learns: arm for arm in reversed(of_arm)}
    rest = [arm for arm in of_arm if arm not in kinds.values()]
    racing = {*kinds.values(), *rest[: max(study.search.race.arms - len(kinds), 0)]}
    return [status for arm, status in of_arm.items() if arm in racing]


def race_specs(study: StudyConfig, folder: StudyFolder, method: str) -> dict[str, TrialSpec]:
    """Plans the trials of the race by their ids: each runner at each seed, with the settings of its trial of the search."""
    return _specs(study, runners(study, folder, method))


def _specs(study: StudyConfig, racing: Sequence[TrialStatus]) -> dict[str, TrialSpec]:
    seeds = range(study.seed + RACED, study.seed + RACED + study.search.race.seeds)
    specs = [status.spec.replace(id=_raced_id(status, seed), kind="race", seed=seed) for seed in seeds for status in racing]
    return {spec.id: spec for spec in specs}


def winner(study: StudyConfig, folder: StudyFolder, method: str) -> TrialStatus | None:
    """Finds the trial of the search whose arm is the best of the race, by the mean over the seeds that all runners completed.

    Without a race, or before it has ended, it is the best trial of the search; None before any is completed.
    """
    scores = _scores(study, folder, method, study.goal)
    if not scores:
        return next(iter(best_by_search(study, folder, method)), None)
    best = max(scores, key=lambda arm: study.goal.worth(mean(scores[arm])))
    return next(status for status in runners(study, folder, method) if status.spec.settings[ARM] == best)


def answer(study: StudyConfig, folder: StudyFolder, method: str) -> Answer | None:
    """Reads which arm the method's search has come to; None of one without arms, or before any trial is completed."""
    best = winner(study, folder, method)
    if best is None or ARM not in best.spec.settings:
        return None
    judged, goal = _scores(study, folder, method, study.goal), study.task.goal
    told = _scores(study, folder, method, goal)
    order = sorted(judged, key=lambda arm: -study.goal.worth(mean(judged[arm])))
    learning, control = (next((arm for arm in order if ARMS[arm].learns == learns), None) for learns in (True, False))
    differences = [a - b for a, b in zip(told[learning], told[control], strict=True)] if learning and control else []
    return Answer(
        arm=best.spec.settings[ARM],
        seeds=len(next(iter(told.values()), ())),
        ahead=mean(differences) if differences else NAN,
        error=stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else NAN,
        learning=learning,
        control=control,
    )


def _scores(study: StudyConfig, folder: StudyFolder, method: str, goal: Goal) -> Mapping[ArmName, list[float]]:
    """What each runner has reached at the seeds of the race that all of them completed; empty while trials of it are to go.

    A runner that failed at every seed is out of the race; one that failed for its settings at any seed is so too.
    """
    racing, statuses = runners(study, folder, method), dict[str, TrialStatus]()
    for trial in _specs(study, racing):
        if (status := folder.status(trial)) is None or status.state not in ("completed", "failed"):
            return {}
        statuses[trial] = status
    seeds = range(study.seed + RACED, study.seed + RACED + study.search.race.seeds)
    of_arm = {s.spec.settings[ARM]: {seed: statuses[_raced_id(s, seed)] for seed in seeds} for s in racing}
    left = {
        arm: done
        for arm, each in of_arm.items()
        if not any(status.of_settings for status in each.values())
        and (done := {seed for seed, status in each.items() if status.state == "completed"})
    }
    common = sorted(set.intersection(*left.values())) if left else []
    if not common:
        return {}
    return {arm: [folder.records(of_arm[arm][seed].spec.id)[-1].metrics[goal.key] for seed in common] for arm in left}


def _raced_id(runner: TrialStatus, seed: int) -> str:
    return f"{runner.spec.method}-{runner.spec.settings[ARM]}-s{seed}"


def _merit(goal: Goal, folder: StudyFolder, trial: str) -> float:
    return goal.merit(folder.records(trial)[-1].metrics)
