"""A phase of a study, search or comparison, as Ray Tune runs its trials."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ray import tune
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.stopper import CombinedStopper

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.connection import resources_of_trial, slots
from kd_hpo.study.cluster.prometheus import StudyMetrics, in_worker
from kd_hpo.study.run.objects import objects_of_trials
from kd_hpo.study.run.progress import ProgressReporter
from kd_hpo.study.search.searcher import PruningStopper, StudySearch
from kd_hpo.study.store.folder import StudyFolder, TrialSpec

ProgressReporters = Callable[[str, int, Callable[[], float | None]], ProgressReporter]
"""Gives the board of a phase: its title, how many trials it has, and what says after how many seconds it asks for no more."""


def no_limit() -> None:
    """Says that a phase has no limit of seconds."""


class Interrupted(StudyError):
    """An error that says that the study was asked to stop; what had ended is kept."""


def run_planned(
    study: StudyConfig,
    folder: StudyFolder,
    title: str,
    specs: list[TrialSpec],
    worker: Callable[..., None],
    board: ProgressReporters,
) -> None:
    """Runs trials that are all known before the first one starts."""
    if not specs:
        return
    with board(title, len(specs), no_limit) as told:
        space = {"spec": tune.grid_search([spec.model_dump(mode="json") for spec in specs])}
        # Not TuneConfig's max_concurrent_trials, which this generator does not heed.
        searcher = BasicVariantGenerator(max_concurrent=study.resources.concurrent_trials or 0)
        run_trials(study, folder, worker, told, 1, searcher, space)


def run_trials(
    study: StudyConfig,
    folder: StudyFolder,
    worker: Callable[..., None],
    board: ProgressReporter,
    samples: int,
    searcher: StudySearch | BasicVariantGenerator,
    space: dict[str, Any],
) -> None:
    resources, stopper = study.resources, board.halt
    if isinstance(searcher, StudySearch):
        stopper = CombinedStopper(board.halt, PruningStopper(searcher))
        searcher = ConcurrencyLimiter(searcher, max_concurrent=resources.concurrent_trials or slots(study))
    trainable = partial(in_worker, worker=worker, study=study.name)
    if objects := objects_of_trials(study):  # by Ray's object store, once, however large they are
        trainable = tune.with_parameters(trainable, objects=objects)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources_of_trial(study)),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=samples,
            search_alg=searcher,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=board.name,
            storage_path=mkdtemp(dir=made(folder.ray)),
            verbose=0,
            callbacks=[board.keeper, board, StudyMetrics(study.name, folder)],
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        ),
    )
    try:
        with board.halt.on_error(folder.ray):  # Ray writes there too
            tuner.fit()
    finally:
        board.halt.raise_error()  # rather than what Ray makes of it


def made(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
