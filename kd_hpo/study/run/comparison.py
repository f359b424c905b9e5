"""The trials of a race and of a comparison: at which settings each runs, and which are left."""

from collections.abc import Mapping
from typing import Any

from kd_hpo.config.load import method_names
from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.design.trials import Searched, acting_paths, compared_ids
from kd_hpo.study.results.arms import race_specs, searched_trials, winner
from kd_hpo.study.results.best import start_of_seeds
from kd_hpo.study.results.comparison import Comparison
from kd_hpo.study.search.budget import Budget
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus


def trials_to_compare(study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched]) -> list[TrialSpec]:
    """The trials of the comparison that are left: every method once a seed at its settings.

    Trials of a method that has no settings, since no trial of its search was completed, are written as failed.
    """
    ended, left = ended_ids(folder), list[TrialSpec]()
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
            left.append(spec)
    return left


def trials_to_race(study: StudyConfig, folder: StudyFolder) -> list[TrialSpec]:
    """The trials of the race of the search's arms that are left; none before the search has ended.

    A race that has not begun by the time that `search.hours` are over is not held; one that has begun goes on to its end.
    """
    specs, ended = race_specs(study, folder, study.search.method), ended_ids(folder)
    if study.search.hours and not any(map(folder.status, specs)) and not Budget(study, folder).has_time:
        return []
    return [spec for trial, spec in specs.items() if trial not in ended]


def ended_ids(folder: StudyFolder) -> set[str]:
    """The ids of the trials that have completed or failed."""
    return {status.spec.id for status in folder.statuses() if status.state in ("completed", "failed")}


def best_settings(
    study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched], method: str
) -> dict[str, Any] | None:
    """The settings that a method is compared at: of its own search, else of the study's search, else the file's.

    Of the study's search it has what acts on it.
    Seeds that have ended settle it: one that comes later, or is run again, has the settings of those that it stands beside.
    None where its own search has completed no trial. Raises StudyError where the study's search has completed none.
    """
    for status in folder.statuses():
        if (status.spec.kind, status.spec.method, status.state) == ("compare", method, "completed"):
            return status.spec.settings
    if study.search.trials and winner(study, folder, study.search.method) is None:
        why = first_failure(folder, study.search.method)
        raise StudyError(f"no trial of the search was completed, so there is nothing to compare or export{why}")
    if method in searched:
        best = winner(study, folder, method)
        return best.spec.settings if best else None
    best = winner(study, folder, study.search.method) if study.search.trials else None
    return {path: best.spec.settings[path] for path in acting_paths(study, method)} if best else {}


def first_failure(folder: StudyFolder, method: str) -> str:
    failed = [status.message for status in searched_trials(folder, method) if status.state == "failed"]
    return f"; the first failure: {failed[0]}" if failed else ""


def require_some_result(comparison: Comparison) -> None:
    """Checks that some trial of the comparison has completed. Raises StudyError where every one has failed."""
    failures = [message for method in comparison.methods for message in method.failures]
    if failures and not any(method.by_seed for method in comparison.methods):
        raise StudyError(f"all {len(failures)} trials of the comparison failed; the first: {failures[0]}")
