"""Trials whose folder somebody has deleted: the record has them no more, but other files of the study still know of them."""

from collections.abc import Iterator, Mapping

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.design.trials import Searched, compared_ids
from kd_hpo.study.results.comparison import read_comparison
from kd_hpo.study.search.journal import known_trials, number_in_folder, searched_id
from kd_hpo.study.store.folder import StudyFolder


def gone(study: StudyConfig, folder: StudyFolder, searched: Mapping[str, Searched]) -> Iterator[str]:
    """Tells of trials that have ended and have no folder any more, and what that means for the results, a line for each kind."""
    known = ((method, trial) for method in searched for trial in known_trials(folder, method) if trial.state.is_finished())
    lost = [name for method, trial in known if _has_none(folder, name := searched_id(method, number_in_folder(trial)))]
    if lost:
        yield (
            f"the folders of these trials are gone: {', '.join(lost)}. The results leave them out, and they are not run again; "
            "what their search has learned from them stays"
        )
    if again := [trial for trial in _compared_before(study, folder) if _has_none(folder, trial)]:
        yield f"the folders of these trials are gone, and they are run again: {', '.join(again)}"


def _compared_before(study: StudyConfig, folder: StudyFolder) -> list[str]:
    """The trials of the comparison that the last one counted and that the study still asks for."""
    try:
        before = read_comparison(study, folder)
    except StudyError:
        return []  # it is written anew
    counted = {(method.name, seed) for method in before.methods for seed in method.by_seed} if before else set()
    return [trial for trial, method_and_seed in compared_ids(study).items() if method_and_seed in counted]


def _has_none(folder: StudyFolder, trial: str) -> bool:
    return not folder.trial(trial).exists()
