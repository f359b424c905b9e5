"""Searches driven by hand as Ray drives them, and trials that are made up."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna

from kd_hpo.config.search import NoScheduler, Sampler, Scheduler, Tpe
from kd_hpo.config.study import Range, Search
from kd_hpo.config.task import Classification, Goal
from kd_hpo.study.design.trials import Searched
from kd_hpo.study.search.journal import journal, known_trials, number_in_folder
from kd_hpo.study.search.method_search import EPOCH, MethodSearch
from kd_hpo.study.search.searcher import StudySearch
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec, TrialStatus
from kd_hpo.trial.result import EpochRecord

EPOCHS = 4
METRIC = Classification.goal.on("val")
SPACE = Search.model_validate(
    {
        "space": {
            "training.optimizer.lr": {"kind": "loguniform", "low": 0.01, "high": 0.2},
            "kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0},
            "pairs.balance.every": {"kind": "int", "low": 1, "high": 30},
            "pairs.logits": {"kind": "choice", "values": ["inside", "outside"]},
        },
    }
).space


def method_search(
    folder: StudyFolder,
    space: dict[str, Range] = SPACE,
    *,
    method: str = "kd",
    trials: int = 8,
    first: tuple[dict[str, Any], ...] = (),
    goal: Goal = Classification.goal,
    sampler: Sampler = Tpe(),  # noqa: B008
    scheduler: Scheduler = NoScheduler(),  # noqa: B008
    epochs: int = EPOCHS,
    **options: Any,
) -> MethodSearch:
    return MethodSearch(
        Searched(method, trials, space, first),
        folder,
        journal(folder.optuna),
        goal=goal,
        sampler=sampler,
        scheduler=scheduler,
        trial_seed=5,
        sampler_seed=0,
        epochs=epochs,
        **options,
    )


def driver(folder: StudyFolder, space: dict[str, Range] = SPACE, **options: Any) -> StudySearch:
    """What a new driver has Ray ask."""
    return StudySearch([method_search(folder, space, **options)], folder.optuna)


def suggested(search: StudySearch, ray_id: str) -> TrialSpec:
    return TrialSpec.model_validate(search.suggest(ray_id)["spec"])


def result(epoch: int, accuracy: float) -> dict[str, Any]:
    return {EPOCH: epoch, METRIC: accuracy}


def on_disk(folder: StudyFolder, spec: TrialSpec, state: State, accuracies: list[float]) -> None:
    folder.write_status(TrialStatus(spec=spec, state=state))
    records = [
        EpochRecord(epoch=i, metrics={METRIC: value}, weights=(), scales=(), held=True) for i, value in enumerate(accuracies, 1)
    ]
    folder.write_records(spec.id, records)


def only(folder: StudyFolder) -> optuna.trial.FrozenTrial:
    (trial,) = known_trials(folder, "kd")
    return trial


class MadeUpStudy:
    """A search of made-up trials, two at a time, whose driver may die after any step; the next one takes over.

    curve  accuracies of a trial by its settings, one an epoch; fewer than `epochs` where it fails
    """

    def __init__(self, root: Path, curve: Callable[[dict[str, Any]], list[float]], *, epochs: int, **options: Any) -> None:
        self.folder, self._curve, self._epochs = StudyFolder(root), curve, epochs
        self._options: dict[str, Any] = {"epochs": epochs, **options}
        self._asked: set[str] = set()

    def run(self, *, dies_every: int | None = None) -> None:
        """dies_every  so many steps a driver dies: when it has asked, an epoch is written or judged, an end is written or told"""
        while any(step == dies_every for step, _ in enumerate(self._drive(), 1)):
            pass

    def _drive(self) -> Iterator[None]:
        search = driver(self.folder, **self._options)
        specs, live = dict[str, TrialSpec](), dict[str, list[float]]()
        while search.left or live:
            if search.left and len(live) < 2:
                spec = suggested(search, ray_id := str(len(specs)))
                specs[ray_id], live[ray_id] = spec, []
                if spec.id not in self._asked:
                    self._asked.add(spec.id)
                    yield
                written = [record.metrics[METRIC] for record in self.folder.records(spec.id)]
                on_disk(self.folder, spec, "running", written)
                retold = (self._is_stopped(search, ray_id, live, accuracy) for accuracy in written)
                stopped = any(retold)
            else:
                ray_id = min(live, key=lambda ray_id: (len(live[ray_id]), specs[ray_id].id))
                spec, curve = specs[ray_id], self._curve(specs[ray_id].settings)
                stopped = False
                if len(live[ray_id]) < len(curve):
                    accuracy = curve[len(live[ray_id])]
                    on_disk(self.folder, spec, "running", [*live[ray_id], accuracy])
                    yield
                    stopped = self._is_stopped(search, ray_id, live, accuracy)
                    yield
            accuracies, curve = live[ray_id], self._curve(spec.settings)
            if stopped or len(accuracies) == len(curve):
                state: State = "completed" if len(accuracies) == self._epochs else "stopped" if stopped else "failed"
                on_disk(self.folder, spec, state, accuracies)
                yield
                search.on_trial_complete(ray_id, result(len(accuracies), accuracies[-1]))
                del live[ray_id]
                yield

    def _is_stopped(self, search: StudySearch, ray_id: str, live: dict[str, list[float]], accuracy: float) -> bool:
        live[ray_id].append(accuracy)
        return search.is_to_stop(ray_id, result(len(live[ray_id]), accuracy))

    def outcome(self) -> dict[str, tuple[Any, ...]]:
        """By trial: its settings, what became of it, and what Optuna knows of it."""
        known = {f"kd-t{number_in_folder(trial):03d}": trial for trial in known_trials(self.folder, "kd")}
        return {
            status.spec.id: (
                status.spec.settings,
                status.state,
                known[status.spec.id].params,
                known[status.spec.id].state,
                known[status.spec.id].intermediate_values,
                known[status.spec.id].value,
            )
            for status in self.folder.statuses()
        }
