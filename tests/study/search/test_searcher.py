"""What Ray sees of the searches of several methods."""

from errno import ENOSPC
from typing import Any

import pytest
from optuna.trial import TrialState

from kd_hpo.config.search import Asha
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.search.journal import known_trials
from kd_hpo.study.search.searcher import PruningStopper, StudySearch
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from tests.study.search.searches import EPOCHS, SPACE, driver, method_search, on_disk, result, suggested


def of_both(folder: StudyFolder, *, trials: tuple[int, int], **options: Any) -> StudySearch:
    few = {"kd.weight": SPACE["kd.weight"]}
    kd, ce = trials
    searches = [method_search(folder, trials=kd, **options), method_search(folder, few, method="ce", trials=ce, **options)]
    return StudySearch(searches, folder.optuna)


def test_methods_are_searched_one_after_the_other_each_in_its_own_study(folder: StudyFolder) -> None:
    both = of_both(folder, trials=(2, 1))
    specs = [suggested(both, ray_id) for ray_id in "abc"]
    assert [(spec.id, spec.method) for spec in specs] == [("kd-t000", "kd"), ("kd-t001", "kd"), ("ce-t000", "ce")]
    assert suggested(both, "a") == specs[0]
    assert both.suggest("d") == StudySearch.FINISHED
    assert set(specs[2].settings) == {"kd.weight"}
    for ray_id in "cab":
        both.is_to_stop(ray_id, result(1, 0.2))
        both.on_trial_complete(ray_id, result(EPOCHS, 0.4))
    both.on_trial_complete("never suggested", None, error=True)
    states = {method: [trial.state for trial in known_trials(folder, method)] for method in ("kd", "ce")}
    assert states == {"kd": [TrialState.COMPLETE] * 2, "ce": [TrialState.COMPLETE]}


def test_next_driver_asks_for_what_is_left_of_each_search(folder: StudyFolder) -> None:
    first = driver(folder, trials=3)
    going, ended = suggested(first, "a"), suggested(first, "b")
    first.on_trial_complete("b", result(EPOCHS, 0.4))
    on_disk(folder, going, "running", [0.1])
    both = of_both(folder, trials=(3, 1))
    assert both.left == 3
    ids = [suggested(both, ray_id).id for ray_id in "xyz"]
    assert ids == ["kd-t000", "kd-t002", "ce-t000"] and ended.id == "kd-t001"


@pytest.mark.parametrize(("of_settings", "state"), [(True, TrialState.COMPLETE), (False, TrialState.FAIL)])
def test_a_search_learns_why_a_trial_is_given_up(folder: StudyFolder, of_settings: bool, state: TrialState) -> None:
    """Ray tells the search before it tells whoever writes the end into the folder."""

    def given_up(trial: str) -> None:
        spec = TrialSpec(id=trial, kind="search", method="kd", seed=0)
        folder.write_status(TrialStatus(spec=spec, state="failed", message="killed", of_settings=of_settings))

    search = StudySearch([method_search(folder, trials=1)], folder.optuna, given_up=given_up)
    suggested(search, "a")
    search.on_trial_complete("a", None, error=True)
    (trial,) = known_trials(folder, "kd")
    assert trial.state == state


def test_an_end_that_the_driver_has_not_told_of_counts_as_one_of_the_trials(folder: StudyFolder) -> None:
    on_disk(folder, suggested(driver(folder, trials=2), "a"), "failed", [0.1])
    assert driver(folder, trials=2).left == 1


def test_a_search_has_no_more_than_its_trials(folder: StudyFolder) -> None:
    for trials, left in ((1, 1), (1, 0), (0, 0)):
        search = driver(folder, trials=trials)
        assert search.left == left
        if left == 1:
            search.suggest("a")
            search.on_trial_complete("a", result(EPOCHS, 0.4))
        else:
            assert search.suggest("a") == StudySearch.FINISHED


# the stopper


def test_ray_is_told_to_stop_what_is_poor_among_the_trials_of_its_own_method(folder: StudyFolder) -> None:
    search = of_both(folder, trials=(2, 2), scheduler=Asha(grace_epochs=1, reduction_factor=2))
    stopper = PruningStopper(search)
    for ray_id in "abcd":
        search.suggest(ray_id)
    told = {"a": 0.8, "c": 0.2, "b": 0.9, "d": 0.1}
    assert {ray_id: stopper(ray_id, result(1, accuracy)) for ray_id, accuracy in told.items()} == {
        "a": False,
        "c": False,
        "b": False,
        "d": True,
    }
    assert not stopper.stop_all()


def test_a_journal_that_cannot_be_written_ends_the_phase(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    halt = StudyStopper()
    search = StudySearch([method_search(folder)], folder.optuna, halt)
    search.suggest("a")

    def full(file: int) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert not PruningStopper(search)("a", result(1, 0.5))
    assert halt.stop_all()
    with pytest.raises(OSError, match="No space left"):
        halt.raise_error()


def test_what_ray_makes_of_trials_once_the_phase_ends_is_not_told(folder: StudyFolder) -> None:
    """They are stopped for a disk that is full, and go on with the study."""
    halt = StudyStopper()
    search = StudySearch([method_search(folder)], folder.optuna, halt)
    search.suggest("a")
    halt.error = OSError(ENOSPC, "No space left on device")
    before = folder.optuna.read_bytes()
    assert not search.is_to_stop("a", result(1, 0.5))
    search.on_trial_complete("a", result(1, 0.5))
    assert search.suggest("b") == StudySearch.FINISHED
    assert folder.optuna.read_bytes() == before
    assert [trial.state for trial in known_trials(folder, "kd")] == [TrialState.RUNNING]
