"""What a study's folder says of it, finished or not: read by `list`, `show` and `report`, without Ray, MLflow or a network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kd_hpo.config.arms import ARM
from kd_hpo.config.load import method_names
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Goal
from kd_hpo.study.design.trials import compared_ids, searches
from kd_hpo.study.results.arms import Answer, answer, race_specs
from kd_hpo.study.results.best import learned_trials
from kd_hpo.study.results.comparison import read_comparison
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.trial.result import KNOWN_FROM, LayerRecord, Rows, TrialResult

_ENDED = {"search": ("completed", "stopped", "failed"), "race": ("completed", "failed"), "compare": ("completed", "failed")}


@dataclass(frozen=True)
class Count:
    """The counts of trials of one method, in the search or in the comparison."""

    ended: int
    planned: int
    best: float
    """Of the task's metric on `val` after the last epoch of a completed trial; nan where there is none."""


@dataclass(frozen=True)
class Standing:
    """The standing of a study: how far it has come."""

    state: Literal["finished", "running", "unfinished"]
    search: Mapping[str, Count]
    """By method; empty in a study without a search."""
    race: Mapping[str, Count]
    """Likewise, of the search's arms; empty while nothing races."""
    compare: Mapping[str, Count]
    goal: Goal
    """The task's metric, and which way of it is better."""

    @property
    def ended(self) -> int:
        return sum(count.ended for count in self._all)

    @property
    def planned(self) -> int:
        return sum(count.planned for count in self._all)

    @property
    def best(self) -> float:
        """The best value of the metric on `val` that any trial has reached; nan where no trial is completed."""
        return self.goal.best(count.best for count in self._all if count.best == count.best)

    @property
    def _all(self) -> tuple[Count, ...]:
        return *self.search.values(), *self.race.values(), *self.compare.values()


@dataclass(frozen=True)
class Learned:
    """The pair weights that a study has learned: held, the mean over its trials. Rows are teacher layers."""

    method: str
    trials: tuple[str, ...]
    """Whose mean it is: those of the comparison, or the best one of the search where none of the comparison is completed."""
    compared: bool
    """Whether they are trials of the comparison."""
    teacher: tuple[LayerRecord, ...]
    student: tuple[LayerRecord, ...]
    matrix: Rows
    low: Rows
    """The smallest of each weight over the trials."""
    high: Rows
    epochs: tuple[int, ...]
    course: tuple[Rows, ...]
    """After each epoch, the mean over the trials."""
    updates: int | None = None
    """How often lambda was updated in each trial; None where an earlier version has not said."""
    t_values: Rows = ()
    """At the end, the mean over the trials: how many standard errors a pair's help stands above the middle one's; empty where
    lambda did not move on evidence."""
    answer: Answer | None = None
    """The arm that the search has come to; None where it had no arms."""

    @property
    def known(self) -> int:
        """The number of pairs that are known to help more or less than the middle one."""
        return sum(abs(t) > KNOWN_FROM for row in self.t_values for t in row)

    @property
    def teacher_names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.teacher)

    @property
    def student_names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.student)


def standing(study: StudyConfig, folder: StudyFolder) -> Standing:
    """Reads how far a study has come. Raises StudyError where a file of its folder is broken."""
    statuses = folder.statuses()
    finished = is_finished(study, folder, statuses)
    planned: dict[str, Counter[str]] = {"compare": Counter(name for name, _ in compared_ids(study).values())}
    if finished:  # nothing is left: what has ended is what was planned, and torch is not needed to know
        planned["search"] = Counter(status.spec.method for status in statuses if status.spec.kind == "search")
        planned["race"] = Counter(status.spec.method for status in statuses if status.spec.kind == "race")
    else:
        planned["search"] = Counter({name: each.trials for name, each in searches(study, (1, 1)).items()})
        raced = Counter(spec.method for spec in race_specs(study, folder, study.search.method).values())
        searching = sum(planned["search"].values()) > sum(status.spec.kind == "search" for status in statuses)
        planned["race"] = Counter() if searching else raced
    goal = study.task.goal
    counts = {
        kind: {name: _count(folder, statuses, kind, name, planned[kind][name], goal) for name in planned[kind]}
        for kind in planned
    }
    state: Literal["finished", "running", "unfinished"] = "finished" if finished else "unfinished"
    return Standing("running" if folder.is_driven() else state, counts["search"], counts["race"], counts["compare"], goal)


def is_finished(study: StudyConfig, folder: StudyFolder, statuses: Sequence[TrialStatus]) -> bool:
    """Whether the comparison that stands in the folder is all that the study asks for: more may have been asked for since."""
    comparison = read_comparison(study, folder)
    if comparison is None:
        return False
    if any(status.state == "running" for status in statuses):
        return False
    ended = {status.spec.id for status in statuses if status.spec.kind == "compare" and status.state in _ENDED["compare"]}
    compared = {(method.name, seed) for method in comparison.methods for seed in comparison.seeds}
    return all(trial in ended and each in compared for trial, each in compared_ids(study).items())


def learned_weights(study: StudyConfig, folder: StudyFolder) -> Learned | None:
    """Reads the pair weights of the first method of the comparison that learns them, else of the best trial of a search.

    None without either. Where the search has come to an arm that holds its weights, they are those that it holds.
    """
    found = answer(study, folder, study.search.method)
    for method in method_names(study):
        ids = [trial for trial, (name, _) in compared_ids(study).items() if name == method]
        done = [trial for trial in ids if (status := folder.status(trial)) and status.state == "completed"]
        results = [folder.result(trial) for trial in done]
        if results and results[0].held_mean and (results[0].config.weighting.learning or has_arm(folder, done[0])):
            return _learned(method, done, results, found if method == study.search.method else None, compared=True)
    best: list[tuple[TrialSpec, TrialResult]] = learned_trials(study, folder)[:1]
    return next((_learned(spec.method, [spec.id], [result], found, compared=False) for spec, result in best), None)


def has_arm(folder: StudyFolder, trial: str) -> bool:
    """Whether the trial is of a method whose search has arms: it may hold weights that were found, not learned."""
    status = folder.status(trial)
    return status is not None and ARM in status.spec.settings


def searched_points(folder: StudyFolder, goal: Goal) -> dict[str, list[dict[str, object]]]:
    """Reads how each trial of each method's search ended, with its settings: its score is its value of the metric on `val`."""
    found: dict[str, list[dict[str, object]]] = {}
    for status in folder.statuses():
        if status.spec.kind == "search":
            records = folder.records(status.spec.id)
            point = {
                "trial": status.spec.id,
                "state": "stopped" if status.state == "running" else status.state,
                "score": records[-1].metrics[goal.on("val")] if records else None,
            }
            found.setdefault(status.spec.method, []).append(point | status.spec.settings)
    return found


def settings_of(points: Sequence[Mapping[str, object]]) -> list[str]:
    """The names of the outer settings that any of the points of a search has, in their order."""
    return list(dict.fromkeys(name for point in points for name in point if name not in ("trial", "state", "score")))


def _count(folder: StudyFolder, statuses: Sequence[TrialStatus], kind: str, method: str, planned: int, goal: Goal) -> Count:
    own = [status for status in statuses if (status.spec.kind, status.spec.method) == (kind, method)]
    ended = [status for status in own if status.state in _ENDED[kind]]
    completed = [folder.records(status.spec.id) for status in ended if status.state == "completed"]
    scores = [records[-1].metrics[goal.on("val")] for records in completed if records]
    return Count(min(len(ended), planned), planned, goal.best(scores))


def _learned(
    method: str, trials: Sequence[str], results: Sequence[TrialResult], found: Answer | None, *, compared: bool
) -> Learned:
    held: Any = np.array([result.held_mean for result in results])
    epochs = results[0].records
    course: Any = np.mean([[record.weights for record in result.records] for result in results], axis=0)
    return Learned(
        method=method,
        trials=tuple(trials),
        compared=compared,
        teacher=results[0].teacher_layers,
        student=results[0].student_layers,
        matrix=_rows(held.mean(0)),
        low=_rows(held.min(0)),
        high=_rows(held.max(0)),
        epochs=tuple(record.epoch for record in epochs),
        course=tuple(map(_rows, course)),
        updates=results[0].updates,
        answer=found,
        t_values=_rows(np.mean([result.last.t_values for result in results], axis=0)) if results[0].last.t_values else (),
    )


def _rows(matrix: Any) -> Rows:
    return tuple(tuple(row) for row in matrix.tolist())
