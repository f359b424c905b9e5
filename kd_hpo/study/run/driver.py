"""A study: prepare what trials share, search the outer settings, compare methods at the best ones, test, export."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.connection import LOCAL, joined, ray_running, slots
from kd_hpo.study.cluster.on_a_node import memory_of
from kd_hpo.study.cluster.signals import stopped_by_sigterm
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.design.repeats import repeats_of
from kd_hpo.study.design.trials import Searched, compared_ids, searches, untried
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.report.plots import draw_comparison
from kd_hpo.study.report.summary import Summary
from kd_hpo.study.results.best import learned_trials
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
from kd_hpo.study.run.phase import Interrupted, ProgressReporters, run_planned
from kd_hpo.study.run.progress import ProgressReporter
from kd_hpo.study.run.retry import retry_failed
from kd_hpo.study.run.searching import search, searches_left, searches_that_learn_nothing
from kd_hpo.study.run.status_keeper import StatusKeeper
from kd_hpo.study.run.work import Work, computing
from kd_hpo.study.run.worker import execute
from kd_hpo.study.search.budget import Budget
from kd_hpo.study.search.journal import mend_journal, reconcile
from kd_hpo.study.search.samplers import require_sampler
from kd_hpo.study.status_line import say, status_line
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.tracking.sync import mirrored
from kd_hpo.study.tracking.tracker import Ending

if TYPE_CHECKING:
    from torch import nn

    from kd_hpo.trial.given import Data


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
             objects and settings in the place of the study's own, as in `kd_hpo.run_trial`; given again to go on elsewhere
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

        def board(title: str, trials: int, at_most_s: Callable[[], float | None]) -> ProgressReporter:
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
                at_most_s=at_most_s,
            )

        with mirrored(study, console) as mirror:
            if left:
                with ray_running(study, console, verbose=verbose):
                    at_once = min(slots(study), study.resources.concurrent_trials or slots(study))
                    for warning in searches_that_learn_nothing(study, searched, at_once):
                        say(console, warning, "yellow")
                    tell_failures(folder, console, told)  # a process that outlived its driver wrote so meanwhile
                    search(study, folder, searched, worker, board, console)
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


def tell_failures(folder: StudyFolder, console: Console, told: Collection[str] = ()) -> set[str]:
    """Tells what failed under an earlier driver, which may not have lived to do so; gives the ids of those and of the `told`."""
    failed = [status for status in folder.statuses() if status.state == "failed" and status.spec.id not in told]
    for status in failed:
        say(console, failure_line(folder, status), "red")
    if failed:
        say(console, f"`{folder.resume} --retry-failed` runs what has failed again", "yellow")
    return {*told, *(status.spec.id for status in failed)}


def trials_left(study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched]) -> bool:
    if searches_left(study, folder, searched) or trials_to_race(study, folder):
        return True
    return not set(compared_ids(study)) <= ended_ids(folder)


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
    if not (left := trials_to_race(study, folder)):
        return
    with Budget(study, folder).counting():
        run_planned(study, folder, "race", left, worker, board)
    if lost := trials_to_race(study, folder):
        raise Interrupted(f"the race of the arms was stopped with {len(lost)} trials to go")
