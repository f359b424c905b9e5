"""A study: prepare what trials share, search the outer settings, compare methods at the best ones, test, export."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.stopper import CombinedStopper
from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.connection import LOCAL, joined, ray_running, resources_of_trial, slots
from kd_hpo.study.cluster.on_a_node import memory_of
from kd_hpo.study.cluster.prometheus import StudyMetrics, in_worker
from kd_hpo.study.cluster.signals import stopped_by_sigterm
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.design.repeats import repeats_of
from kd_hpo.study.design.trials import Searched, compared_ids, judged_records, searches, untried
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.report.plots import draw_comparison
from kd_hpo.study.report.summary import Summary
from kd_hpo.study.results.best import learned_trials, seed_of_searches, start_of_lambda
from kd_hpo.study.results.comparison import compared
from kd_hpo.study.results.repeats import Repeated
from kd_hpo.study.results.standing import learned_weights
from kd_hpo.study.run.checks import (
    check_methods,
    check_starts,
    refuse_other_settings,
    settle_settings,
)
from kd_hpo.study.run.comparison import ended_ids, require_some_result, trials_to_compare, trials_to_race
from kd_hpo.study.run.failure import failure_line
from kd_hpo.study.run.gone import gone
from kd_hpo.study.run.objects import study_with_objects
from kd_hpo.study.run.progress import ProgressReporter
from kd_hpo.study.run.retry import retry_failed
from kd_hpo.study.run.status_keeper import StatusKeeper
from kd_hpo.study.run.work import Work, computing
from kd_hpo.study.run.worker import execute
from kd_hpo.study.search.journal import journal, known_trials, mend_journal, reconcile
from kd_hpo.study.search.method_search import MethodSearch
from kd_hpo.study.search.samplers import learns_nothing, require_sampler
from kd_hpo.study.search.searcher import PruningStopper, StudySearch
from kd_hpo.study.status_line import say, status_line
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from kd_hpo.study.tracking.sync import mirrored
from kd_hpo.study.tracking.tracker import Ending

if TYPE_CHECKING:
    from torch import nn

    from kd_hpo.trial.given import Data

ProgressReporters = Callable[[str, int], ProgressReporter]
"""Gives the board of a phase: its title, and how many trials it has."""


class Interrupted(StudyError):
    """An error that says that the study was asked to stop; what had ended is kept."""


def run_study(
    study: StudyConfig,
    console: Console,
    *,
    verbose: bool = False,
    again: bool = False,
    teacher: "nn.Module | None" = None,
    student: "nn.Module | None" = None,
    data: "Data | None" = None,
    overrides: Mapping[str, Any] | None = None,
) -> Summary:
    """Runs a study, or continues it where its folder stands; what has ended is never run again, but failed trials `again`.

    console  is told how it goes; `Console(quiet=True)` for silence
    verbose  every epoch of every trial is told, and what the processes of the trials print
    teacher, student, data, overrides
             objects and settings in the place of the study's own, as in `kd_hpo.run_trial`; kept in `study.runs`, for the
             processes of this machine
    returns  the comparison of the methods, and the matrix (T, S) that was learned, the mean over seeds
    All that it writes is in `study.runs`: its own folder, the shared cache and, unless the study names a server, MLflow's.
    A study that is refused before its teacher is trained has no folder yet.
    Raises StudyError if another study of the name has other settings, or another process drives this one; Interrupted on
    SIGINT or SIGTERM; DataError, ConfigError or FeatureMismatch for what cannot be run.
    Where `search.repeats` asks for several, each is a study of its own, one after the other, and what is returned is the first
    with the table over all of them.
    """
    study = study_with_objects(study, teacher=teacher, student=student, data=data, overrides=overrides)
    studies, folder = repeats_of(study), StudyFolder.of(study)
    for each in studies:  # before the first one has taken its hours
        refuse_other_settings(each, StudyFolder.of(each))
    summaries = [_run_once(each, console, verbose=verbose, again=again) for each in studies]
    if len(studies) == 1:
        return summaries[0]
    repeated = Repeated(tuple(summary.comparison for summary in summaries))
    repeated.write(folder)
    with mirrored(study, console) as mirror:
        mirror.caught_up(ending=Ending(summaries[0].comparison, summaries[0].learned, repeated))
    return replace(summaries[0], repeated=repeated)


def _run_once(study: StudyConfig, console: Console, *, verbose: bool, again: bool) -> Summary:
    prepare_environment()
    folder = StudyFolder.of(study)
    refuse_other_settings(study, folder)
    check_methods(study)
    if new := not folder.begun:  # one that an earlier version began goes on
        check_starts(study)
    require_sampler(study.search.sampler)
    with stopped_by_sigterm(), joined(study, console, verbose=verbose):
        return _run_joined(study, folder, console, new=new, verbose=verbose, again=again)


def _run_joined(study: StudyConfig, folder: StudyFolder, console: Console, *, new: bool, verbose: bool, again: bool) -> Summary:
    """The study once its cluster, if it names one, has been joined: whatever computes runs there, and all else here."""
    compute = computing(study)
    with status_line(console, each_time=verbose) as progress:
        looked = compute(Work.look, progress)
        searched = searches(study, looked.shape)
    for warning in [*looked.few_updates, *untried(searched.values())]:
        say(console, warning, "yellow")
    with folder.only_driver():
        settle_settings(study, folder)
        mend_journal(folder)
        if going_on := [trial for method in searched for trial in reconcile(folder, method)]:
            say(console, f"how they ended could not be written, so they go on: {', '.join(going_on)}")
        for line in gone(study, folder, searched):
            say(console, line, "yellow")
        if again:
            say(console, f"to be run again: {', '.join(retry_failed(folder, searched)) or 'none, since no trial has failed'}")
        told = tell_failures(folder, console)
        left = trials_left(study, folder, searched)
        with status_line(console, each_time=verbose) as progress:
            compute(Work.make_ready, progress, new=new, trials=left)
        worker = partial(execute, study_json=study.model_dump_json())

        def board(title: str, trials: int) -> ProgressReporter:
            memory = None if study.resources.address == LOCAL else memory_of
            keeper, epochs = StatusKeeper(folder, StudyStopper(), memory), study.training.epochs
            return ProgressReporter(
                console,
                title,
                folder,
                keeper,
                goal=study.task.goal,
                trials=trials,
                epochs=epochs,
                layers=(looked.teacher, looked.student),
                each_epoch=verbose,
            )

        with mirrored(study, console) as mirror:
            if left:
                with ray_running(study, console, verbose=verbose):
                    at_once = min(slots(study), study.resources.concurrent_trials or slots(study))
                    for warning in searches_that_learn_nothing(study, searched, at_once):
                        say(console, warning, "yellow")
                    tell_failures(folder, console, told)  # a process that outlived its driver wrote so meanwhile
                    search(study, folder, searched, worker, board)
                    race_arms(study, folder, worker, board)
                    compare_methods(study, folder, searched, worker, board)
            with status_line(console) as progress:
                shared = compute(Work.score_on_test, progress)
            comparison = compared(study, folder, shared, searched)
            comparison.write(folder)
            require_some_result(comparison)
            draw_comparison(comparison, folder.comparison("png"))
            if learned_trials(study, folder):
                mirror.caught_up()  # the export names its runs
                export_study(study, folder, folder.export, top=1)
            learned = learned_weights(study, folder)
            try:
                compute(Work.export_best_student, lambda _: None)
            except StudyError as error:  # its weights are in its trial's folder all the same
                say(console, str(error), "yellow")
            mirror.caught_up(ending=Ending(comparison, learned))
        require_all_ended(folder)
        here = study.resources.address == LOCAL  # a network of another machine is not carried here
        student = compute(Work.best_student, lambda _: None) if here else None
        return Summary(comparison, learned, mirror.tracker.link, student=student)


def require_all_ended(folder: StudyFolder) -> None:
    """Checks that no trial of the folder still runs that the study asks for no more. Raises StudyError where one does."""
    for status in folder.statuses():
        if status.state == "running":
            why = status.message or "it is not in the study's journal"
            raise StudyError(
                f"trial {status.spec.id} has not ended ({why}), and the study asks for it no more; the results leave it out. "
                f"Remove {folder.trial(status.spec.id)}, and go on: {folder.resume}"
            )


def searches_that_learn_nothing(study: StudyConfig, searched: Mapping[str, Searched], at_once: int) -> list[str]:
    """Names the searches that learn nothing, a line for each, but for those that have ended."""
    told = (
        learns_nothing(study.search.sampler, name, search.trials, len(search.space), at_once)
        for name, search in searched.items()
        if searches_left(StudyFolder.of(study), {name: search})
    )
    return [line for line in told if line]


def tell_failures(folder: StudyFolder, console: Console, told: Collection[str] = ()) -> set[str]:
    """Tells what failed under an earlier driver, which may not have lived to do so; gives the ids of those and of the `told`."""
    failed = [status for status in folder.statuses() if status.state == "failed" and status.spec.id not in told]
    for status in failed:
        say(console, failure_line(folder, status), "red")
    if failed:
        say(console, f"`{folder.resume} --retry-failed` runs what has failed again", "yellow")
    return {*told, *(status.spec.id for status in failed)}


def trials_left(study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched]) -> bool:
    if searches_left(folder, searched) or trials_to_race(study, folder):
        return True
    return not set(compared_ids(study)) <= ended_ids(folder)


def searches_left(folder: StudyFolder, searched: Mapping[str, Searched]) -> int:
    """Tells how many trials of the searches have not ended."""
    ended = {name: sum(trial.state.is_finished() for trial in known_trials(folder, name)) for name in searched}
    return sum(max(search.trials - ended[name], 0) for name, search in searched.items())


def search(
    study: StudyConfig,
    folder: StudyFolder,
    searched: Mapping[str, Searched],
    worker: Callable[..., None],
    board: ProgressReporters,
) -> None:
    """Runs Optuna's trials over the outer settings of every method that is searched, those that are left."""

    if not searches_left(folder, searched):
        return
    storage = journal(folder.optuna)

    def of_method(one: Searched) -> MethodSearch:
        return MethodSearch(
            one,
            folder,
            storage,
            goal=study.goal,
            sampler=study.search.sampler,
            scheduler=study.search.scheduler,
            trial_seed=seed_of_searches(study, folder),
            sampler_seed=study.search.seed,
            epochs=study.training.epochs,
            start=partial(start_of_lambda, study, folder, one.method),
            judged=partial(judged_records, study, folder),
        )

    searches_of_all = [of_method(one) for one in searched.values()]
    if not (left := sum(one.left for one in searches_of_all)):
        return
    with board("search", left) as told:
        searcher = StudySearch(searches_of_all, folder.optuna, told.halt, told.keeper.given_up)
        run_trials(study, folder, worker, told, left, searcher, {})
    if lost := searches_left(folder, searched):
        total = sum(search.trials for search in searched.values())
        raise Interrupted(f"the search was stopped with {lost} of {total} trials to go")


def compare_methods(
    study: StudyConfig,
    folder: StudyFolder,
    searched: Mapping[str, Searched],
    worker: Callable[..., None],
    board: ProgressReporters,
) -> None:
    """Runs every method once a seed at its settings, those trials that are left."""
    run_planned(study, folder, "compare", trials_to_compare(study, folder, searched), worker, board)
    if lost := set(compared_ids(study)) - ended_ids(folder):
        raise Interrupted(f"the comparison was stopped with {len(lost)} of {len(compared_ids(study))} trials to go")


def race_arms(study: StudyConfig, folder: StudyFolder, worker: Callable[..., None], board: ProgressReporters) -> None:
    """Runs the best arms of the search once more at each seed of the race, those trials that are left."""
    run_planned(study, folder, "race", trials_to_race(study, folder), worker, board)
    if lost := trials_to_race(study, folder):
        raise Interrupted(f"the race of the arms was stopped with {len(lost)} trials to go")


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
    with board(title, len(specs)) as told:
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
    tuner = tune.Tuner(
        tune.with_resources(partial(in_worker, worker=worker, study=study.name), resources_of_trial(study)),
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
