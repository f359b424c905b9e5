"""The matrix of a trial, or the mean of a method's seeds, over the epochs: from MLflow, with the layers' names and shapes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kd_hpo.dashboards.tracked import StudyRuns, Tracking
from kd_hpo.study.results.pairs import strongest_pairs
from kd_hpo.study.tracking.runs import LAMBDA, LAMBDA_BY_EPOCH, MATRIX_SECTION

_CELL = re.compile(re.escape(MATRIX_SECTION) + r"/(\d+) (.*) to (\d+) (.*)")
NEGLIGIBLE = 0.002
"""A pair that never weighs as much is not drawn by itself."""
METHOD = "method: "
"""Before a method's name: the mean of its seeds, where a trial's name may stand too."""


class NoMatrix(Exception):
    """The error that there is nothing to show, and why."""


@dataclass(frozen=True)
class Layer:
    name: str
    shape: tuple[int, ...] | None = None
    """Channels, height, width; None where MLflow does not have it."""

    @property
    def size(self) -> str:
        return "×".join(map(str, self.shape)) if self.shape else ""


@dataclass(frozen=True)
class Matrices:
    """The matrices of a trial or a method: weights (E, T, S) are lambda at the end of each epoch."""

    title: str
    teacher: tuple[Layer, ...]
    student: tuple[Layer, ...]
    epochs: tuple[int, ...]
    weights: NDArray[np.float64]
    trials: tuple[str, ...]
    """Whose mean it is."""

    def at(self, epoch: int) -> NDArray[np.float64]:
        """The matrix (T, S) as it stood at an epoch: at the last one up to that."""
        matrix: NDArray[np.float64] = self.weights[max(sum(e <= epoch for e in self.epochs) - 1, 0)]
        return matrix

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs by their weight at the end, the largest first."""
        return strongest_pairs(self.weights[-1])

    def pair_name(self, pair: tuple[int, int]) -> str:
        return f"{self.teacher[pair[0]].name} → {self.student[pair[1]].name}"

    def frame(self, epoch: int) -> pd.DataFrame:
        rows, columns = ([layer.name for layer in layers] for layers in (self.teacher, self.student))
        return pd.DataFrame(self.at(epoch), index=pd.Index(rows, name="teacher layer"), columns=columns)


def choices(study: StudyRuns) -> list[str]:
    """The names of what has a matrix: methods of several seeds, then trials.

    The learned come first, then the comparison, then the best.
    """
    having = study.trials[study.trials["has_matrix"]]
    least_first = study.goal.mode == "min"
    best_first = having.sort_values(["learns", "kind", "score"], ascending=[False, True, least_first])
    compared = best_first[best_first["kind"] == "compare"]
    methods = [METHOD + str(name) for name, group in compared.groupby("method", sort=False) if len(group) > 1]
    return methods + [str(trial) for trial in best_first.index]


def matrices(tracked: Tracking, study: StudyRuns, choice: str) -> Matrices:
    """Reads the matrices of a choice. Raises NoMatrix where it has none."""
    if choice.startswith(METHOD):
        return _mean(choice, seeds(tracked, study, choice.removeprefix(METHOD)))
    if choice not in study.trials.index or not study.trials.loc[choice, "has_matrix"]:
        raise NoMatrix(f"{choice} has no matrix yet; a trial that has pairs has one after its first epoch")
    return trial_matrices(tracked, str(study.trials.loc[choice, "run"]), choice)


def seeds(tracked: Tracking, study: StudyRuns, method: str) -> list[Matrices]:
    """Reads the matrices of each completed trial of a method in the comparison."""
    trials = study.trials
    chosen = trials[(trials["kind"] == "compare") & (trials["method"] == method) & trials["has_matrix"]]
    done = chosen[chosen["state"] == "completed"]
    return [trial_matrices(tracked, str(run), str(trial)) for trial, run in done["run"].items()]


def trial_matrices(tracked: Tracking, run: str, title: str) -> Matrices:
    """Reads the matrices of a trial: from a file where it has ended, else from its metrics."""
    found = _from_artifact(tracked, run, title) or _from_metrics(tracked, run, title)
    told = tracked.json_artifact(run, "layers.json")
    if not told:
        return found
    teacher, student = (
        tuple(Layer(each["name"], tuple(each["shape"])) for each in told[name]) for name in ("teacher", "student")
    )
    fits = (len(teacher), len(student)) == found.weights.shape[1:]
    return replace(found, teacher=teacher, student=student) if fits else found


def _from_artifact(tracked: Tracking, run: str, title: str) -> Matrices | None:
    told = tracked.json_artifact(run, LAMBDA_BY_EPOCH) or tracked.json_artifact(run, LAMBDA)
    if not told or "epochs" not in told:  # which `lambda.json` had before it was a file that can be applied
        return None
    teacher, student = (tuple(Layer(name) for name in told[f"{network}_layers"]) for network in ("teacher", "student"))
    epochs = tuple(entry["epoch"] for entry in told["epochs"])
    weights = np.array([entry["weights"] for entry in told["epochs"]], dtype=float)
    return Matrices(title, teacher, student, epochs, weights, (title,))


def _from_metrics(tracked: Tracking, run: str, title: str) -> Matrices:
    """Names are as MLflow can spell them."""
    cells = {name: found for name in tracked.client.get_run(run).data.metrics if (found := _CELL.fullmatch(name))}
    if not cells:
        raise NoMatrix(f"{title} has no matrix yet; a trial that has pairs has one after its first epoch")
    teacher = {int(cell[1]): cell[2] for cell in cells.values()}
    student = {int(cell[3]): cell[4] for cell in cells.values()}
    history = pd.DataFrame({(int(c[1]), int(c[3])): tracked.history(run, name) for name, c in cells.items()}).dropna()
    if history.empty or history.shape[1] != len(teacher) * len(student):
        raise NoMatrix(f"{title}: MLflow does not have every pair of its first epoch yet; refresh in a moment")
    ordered = history[[(t, s) for t in sorted(teacher) for s in sorted(student)]]
    return Matrices(
        title,
        tuple(Layer(teacher[t]) for t in sorted(teacher)),
        tuple(Layer(student[s]) for s in sorted(student)),
        tuple(int(epoch) for epoch in ordered.index),
        ordered.to_numpy().reshape(len(ordered), len(teacher), len(student)),
        (title,),
    )


def _mean(choice: str, of: Sequence[Matrices]) -> Matrices:
    """At the epochs that all have."""
    method = choice.removeprefix(METHOD)
    if not of:
        raise NoMatrix(f"{method} has no completed trial in the comparison yet; choose one of its trials")
    if len({(each.teacher, each.student) for each in of}) > 1:
        raise NoMatrix(f"the trials of {method} have different layers; choose one of them")
    epochs = sorted(set.intersection(*(set(each.epochs) for each in of)))
    weights = np.mean([[each.at(epoch) for epoch in epochs] for each in of], axis=0)
    trials = tuple(each.title for each in of)
    return Matrices(f"{method}, mean of {len(of)}", of[0].teacher, of[0].student, tuple(epochs), weights, trials)
