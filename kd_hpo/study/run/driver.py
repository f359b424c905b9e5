"""A study: prepare what trials share, search the outer settings, compare methods at the best ones, test, export."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ray import tune
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.stopper import CombinedStopper
from rich.console import Console
from rich.text import Text

from kd_hpo.config.load import method_names
from kd_hpo.config.pairs import NoPairs
from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.connection import check_cluster, ray_running, resources_of_trial, slots
from kd_hpo.study.cluster.prometheus import StudyMetrics, in_worker
from kd_hpo.study.cluster.signals import heed_sigterm, stopped_by_sigterm
from kd_hpo.study.design.trials import Searched, acting_paths, compared_ids, judged_records, method_trials, searches, trial_config
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.matrices.export import export_study, learned_trials
from kd_hpo.study.report.plots import draw_comparison
from kd_hpo.study.report.summary import Summary
from kd_hpo.study.results.best import best_searched, searched_trials, start_of_lambda, start_of_seeds
from kd_hpo.study.results.comparison import Comparison, compared
from kd_hpo.study.results.final_scores import accuracy_on_test
from kd_hpo.study.results.standing import learned_weights
from kd_hpo.study.run.checks import check_methods, check_pairs, refuse_other_settings, settle_settings
from kd_hpo.study.run.progress import ProgressReporter
from kd_hpo.study.run.retry import retry_failed
from kd_hpo.study.run.worker import execute
from kd_hpo.study.search.journal import journal, known_trials, mend_journal
from kd_hpo.study.search.method_search import MethodSearch
from kd_hpo.study.search.samplers import require_sampler
from kd_hpo.study.search.searcher import PruningStopper, StudySearch
from kd_hpo.study.status_line import status_line
from kd_hpo.study.store.folder import StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.study.tracking.best_student import export_best_student
from kd_hpo.study.tracking.overview import Ending, views_of
from kd_hpo.study.tracking.runs import experiment_link
from kd_hpo.study.tracking.sync import mirrored
from kd_hpo.trial.prepare import Prepared, load_data, prepare, shared_settings
from kd_hpo.trial.result import GOALS
from kd_hpo.trial.run import BEST_WEIGHTS, LAST_WEIGHTS

ProgressReporters = Callable[[str, int], ProgressReporter]
"""Gives the board of a phase: its title, and how many trials it has."""


class Interrupted(StudyError):
    """The study was asked to stop; what had ended is kept."""


def run_study(study: StudyConfig, console: Console, *, verbose: bool = False, again: bool = False) -> Summary:
    """Runs a study, or continues it where its folder stands; what has ended is never run again, but failed trials `again`.

    console  is told how it goes; `Console(quiet=True)` for silence
    verbose  every epoch of every trial is told, and what the processes of the trials print
    returns  the comparison of the methods, and the matrix (T, S) that was learned, the mean over seeds
    All that it writes is in `study.runs`: its own folder, the shared cache and, unless the study names a server, MLflow's.
    A study that is refused before its teacher is trained has no folder yet.
    Raises StudyError if another study of the name has other settings, or another process drives this one; Interrupted on
    SIGINT or SIGTERM; DataError, ConfigError or FeatureMismatch for what cannot be run.
    """
    prepare_environment()
    folder = StudyFolder.of(study)
    refuse_other_settings(study, folder)
    check_methods(study)
    require_sampler(study.search.sampler)
    with status_line(console, each_time=verbose) as progress:
        plan = check_pairs(study, *load_data(study.trial(), folder.cache, progress))
        searched = searches(study, plan.shape)
    with folder.only_driver(), stopped_by_sigterm():
        settle_settings(study, folder)
        mend_journal(folder)
        if again:
            console.print(f"to be run again: {', '.join(retry_failed(folder, searched)) or 'none, since no trial has failed'}")
        tell_failures(folder, console)
        if left := trials_left(study, folder, searched):
            check_cluster(study, console)
        with status_line(console, each_time=verbose) as progress:
            prepared = prepare(study.trial().replace(assistants=(), weighting=NoPairs().model_dump()), folder.cache, progress)
            if left:
                prepare_features(study, folder, progress)
        worker = partial(execute, study_json=study.model_dump_json())

        def board(title: str, trials: int) -> ProgressReporter:
            layers = [layer.name for layer in plan.teacher], [layer.name for layer in plan.student]
            return ProgressReporter(
                console, title, folder, trials=trials, epochs=study.training.epochs, layers=layers, each_epoch=verbose
            )

        with mirrored(study, console, views_of(study, searched)) as mirror:
            if left:
                with ray_running(study, console, verbose=verbose):
                    heed_sigterm()
                    slots(study)  # a trial that fits nowhere is told, not waited for
                    search(study, folder, searched, worker, board)
                    compare_methods(study, folder, searched, worker, board)
            open_test_split(study, folder, prepared, console)
            comparison = compared(study, folder, prepared, searched)
            comparison.write(folder)
            require_some_result(comparison)
            draw_comparison(comparison, folder.comparison("png"))
            if learned_trials(folder):
                mirror.caught_up()  # the export names its runs
                export_study(study, folder, folder.export, top=1)
            learned = learned_weights(study, folder)
            try:
                export_best_student(study, folder, prepared)
            except StudyError as error:  # its weights are in its trial's folder all the same
                console.print(Text(str(error), style="yellow"))
            mirror.caught_up(ending=Ending(comparison, learned))
        return Summary(comparison, learned, experiment_link(study, mirror.experiment))


def tell_failures(folder: StudyFolder, console: Console) -> None:
    """What failed under an earlier driver, which may not have lived to tell of it."""
    failed = [status for status in folder.statuses() if status.state == "failed"]
    for status in failed:
        console.print(Text(f"{status.spec.id} failed: {status.message}", style="red"))
    if failed:
        console.print(Text(f"`{folder.resume} --retry-failed` runs what has failed again", style="yellow"))


def prepare_features(study: StudyConfig, folder: StudyFolder, progress: Callable[[str], None]) -> None:
    """The teacher's features for every method that reads them, while nothing else runs; an assistant's are its trial's."""
    wanted = {shared_settings(config).model_dump_json(): config for config in method_trials(study).values()}
    for config in wanted.values():
        if not config.assistants and not isinstance(config.weighting, NoPairs):
            prepare(config, folder.cache, progress)


def trials_left(study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched]) -> bool:
    return searches_left(folder, searched) > 0 or not set(compared_ids(study)) <= ended_ids(folder)


def searches_left(folder: StudyFolder, searched: Mapping[str, Searched]) -> int:
    """How many trials of the searches have not ended."""
    ended = {name: sum(trial.state.is_finished() for trial in known_trials(folder, name)) for name in searched}
    return sum(max(search.trials - ended[name], 0) for name, search in searched.items())


def ended_ids(folder: StudyFolder) -> set[str]:
    return {status.spec.id for status in folder.statuses() if status.state in ("completed", "failed")}


def search(
    study: StudyConfig,
    folder: StudyFolder,
    searched: Mapping[str, Searched],
    worker: Callable[..., None],
    board: ProgressReporters,
) -> None:
    """Optuna's trials over the outer settings of every method that is searched, those that are left."""

    if not searches_left(folder, searched):
        return
    storage = journal(folder.optuna)

    def of_method(one: Searched) -> MethodSearch:
        return MethodSearch(
            one,
            folder,
            storage,
            goal=GOALS[study.search.by],
            sampler=study.search.sampler,
            scheduler=study.search.scheduler,
            trial_seed=study.seed,
            sampler_seed=study.search.seed,
            epochs=study.training.epochs,
            start=partial(start_of_lambda, study, folder, one.method),
            judged=partial(judged_records, study, folder),
        )

    searches_of_all = [of_method(one) for one in searched.values()]
    if not (left := sum(one.left for one in searches_of_all)):
        return
    with board("search", left) as told:
        run_trials(study, folder, worker, told, left, StudySearch(searches_of_all, folder.optuna, told.halt), {})
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
    """Every method once a seed at its settings, those that are left."""
    ended, left = ended_ids(folder), list[dict[str, Any]]()
    settings = {name: best_settings(study, folder, searched, name) for name in method_names(study)}
    starts = {name: start_of_seeds(study, folder, name) for name in method_names(study)}
    for trial, (name, seed) in compared_ids(study).items():
        if trial in ended:
            continue
        spec = TrialSpec(id=trial, kind="compare", method=name, seed=seed, settings=settings[name] or {}, start=starts[name])
        if settings[name] is None:
            why = f"no trial of its search was completed, so it has no settings{first_failure(folder, name)}"
            folder.write_status(TrialStatus(spec=spec, state="failed", message=why))
        else:
            left.append(spec.model_dump(mode="json"))
    if not left:
        return
    with board("compare", len(left)) as told:
        space = {"spec": tune.grid_search(left)}
        # Not TuneConfig's max_concurrent_trials, which this generator does not heed.
        searcher = BasicVariantGenerator(max_concurrent=study.resources.concurrent_trials or 0)
        run_trials(study, folder, worker, told, 1, searcher, space)
    if lost := set(compared_ids(study)) - ended_ids(folder):
        raise Interrupted(f"the comparison was stopped with {len(lost)} of {len(compared_ids(study))} trials to go")


def best_settings(
    study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched], method: str
) -> dict[str, Any] | None:
    """Those of the method's own search; else what acts on it of those that the study's search has found; else the file's.

    Seeds that have ended settle it: one that comes later, or is run again, has the settings of those that it stands beside.
    None where its own search has completed no trial. Raises StudyError where the study's search has completed none.
    """
    for status in folder.statuses():
        if (status.spec.kind, status.spec.method, status.state) == ("compare", method, "completed"):
            return status.spec.settings
    if study.search.trials and best_searched(study, folder, study.search.method) is None:
        why = first_failure(folder, study.search.method)
        raise StudyError(f"no trial of the search was completed, so there is nothing to compare or export{why}")
    if method in searched:
        best = best_searched(study, folder, method)
        return best.spec.settings if best else None
    best = best_searched(study, folder, study.search.method) if study.search.trials else None
    return {path: best.spec.settings[path] for path in acting_paths(study, method)} if best else {}


def first_failure(folder: StudyFolder, method: str) -> str:
    failed = [status.message for status in searched_trials(folder, method) if status.state == "failed"]
    return f"; the first failure: {failed[0]}" if failed else ""


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
            callbacks=[board, StudyMetrics(study.name, folder)],
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=resources.max_failures),
        ),
    )
    try:
        with board.halt.on_error(folder.ray):  # Ray writes there too
            tuner.fit()
    finally:
        board.halt.raise_error()  # rather than what Ray makes of it


def require_some_result(comparison: Comparison) -> None:
    """Raises StudyError where every trial of the comparison has failed."""
    failures = [message for method in comparison.methods for message in method.failures]
    if failures and not any(method.by_seed for method in comparison.methods):
        raise StudyError(f"all {len(failures)} trials of the comparison failed; the first: {failures[0]}")


def open_test_split(study: StudyConfig, folder: StudyFolder, prepared: Prepared, console: Console) -> None:
    """Scores each trial of the comparison on `test`, once: its last epoch and its best epoch by `val`."""
    done = [status for status in folder.statuses() if status.spec.kind == "compare" and status.state == "completed"]
    waiting = [status for status in done if not folder.test_scores(status.spec.id)]
    with status_line(console) as progress:
        for number, status in enumerate(waiting, 1):
            progress(f"opening the test split: trial {number} of {len(waiting)}")
            config, trial = trial_config(study, status.spec), folder.trial(status.spec.id)
            last, best = (accuracy_on_test(config, trial / name, prepared) for name in (LAST_WEIGHTS, BEST_WEIGHTS))
            folder.write_test_scores(status.spec.id, TestScores(last=last, best=best))


def made(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)
