"""The searches of a study: how many of their trials are left, and how they are run."""

from collections.abc import Callable, Mapping
from functools import partial

from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.design.trials import Searched, judged_records
from kd_hpo.study.results.best import seed_of_searches, start_of_lambda
from kd_hpo.study.run.phase import Interrupted, ProgressReporters, run_trials
from kd_hpo.study.search.budget import Budget
from kd_hpo.study.search.journal import is_running, journal, known_trials
from kd_hpo.study.search.method_search import MethodSearch
from kd_hpo.study.search.samplers import learns_nothing
from kd_hpo.study.search.searcher import StudySearch
from kd_hpo.study.status_line import say
from kd_hpo.study.store.folder import StudyFolder


def searches_left(study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched]) -> int:
    """Tells how many trials of the searches are to be run: those that have not ended, or that go on where a budget is used up."""
    left = running = 0
    for name, search in searched.items():
        known = known_trials(folder, name)
        left += max(search.trials - sum(trial.state.is_finished() for trial in known), 0)
        running += sum(map(is_running, known))
    has_budget = study.search.hours is not None or study.search.until is not None
    return running if left and has_budget and Budget(study, folder).over else left


def searches_that_learn_nothing(study: StudyConfig, searched: Mapping[str, Searched], at_once: int) -> list[str]:
    """Names the searches that learn nothing, a line for each, but for those that have ended."""
    told = (
        learns_nothing(study.search.sampler, name, search.trials, len(search.space), at_once)
        for name, search in searched.items()
        if searches_left(study, StudyFolder.of(study), {name: search})
    )
    return [line for line in told if line]


def search(
    study: StudyConfig,
    folder: StudyFolder,
    searched: Mapping[str, Searched],
    worker: Callable[..., None],
    board: ProgressReporters,
    console: Console,
) -> None:
    """Runs Optuna's trials over the outer settings of every method that is searched, those that are left.

    At the end it tells what has ended the search, and what it would probably find in another hour.
    """
    if not searches_left(study, folder, searched):
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
    budget = Budget(study, folder)
    with board("search", left, lambda: budget.left_s) as told, budget.counting():
        searcher = StudySearch(searches_of_all, folder.optuna, told.halt, told.keeper.given_up, budget, told.keeper.stopped_for)
        run_trials(study, folder, worker, told, left, searcher, {})
    if lost := searches_left(study, folder, searched):
        total = sum(search.trials for search in searched.values())
        raise Interrupted(f"the search was stopped with {lost} of {total} trials to go")
    say(console, f"the search has ended: {budget.over or 'it has had all its trials'}; {budget.further_hour()}")
