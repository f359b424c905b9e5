"""The journal on disk: what a driver that died leaves in it, what is known from it, and failed trials asked for again."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from kd_hpo.config.search import Asha
from kd_hpo.errors import StudyError
from kd_hpo.study.search.journal import ask_again, journal, known_trials, mend_journal, reconcile
from kd_hpo.study.store.folder import StudyFolder
from tests.study.search.searches import EPOCHS, driver, on_disk, result, suggested


def test_half_a_line_of_the_journal_and_the_lock_of_a_dead_driver_do_not_stop_the_next_one(folder: StudyFolder) -> None:
    search = driver(folder)
    first = suggested(search, "a")
    search.on_trial_complete("a", result(EPOCHS, 0.4))
    whole = folder.optuna.read_text()
    folder.optuna.write_text(whole + whole.splitlines()[-1][:20])
    lock = Path(f"{folder.optuna}.lock")
    lock.symlink_to(folder.optuna)
    mend_journal(folder)
    assert folder.optuna.read_text() == whole and not lock.is_symlink()
    again = driver(folder)
    second = suggested(again, "x")
    again.on_trial_complete("x", result(EPOCHS, 0.4))
    assert [trial.params for trial in known_trials(folder, "kd")] == [first.settings, second.settings]


def test_what_is_no_journal_is_refused_by_its_path(folder: StudyFolder) -> None:
    folder.root.mkdir()
    folder.optuna.write_text("no journal\nof Optuna's\n")
    with pytest.raises(StudyError, match=rf"{folder.optuna} is broken"):
        journal(folder.optuna)


def test_failed_trials_are_asked_again_first_under_their_own_name(folder: StudyFolder) -> None:
    search = driver(folder, trials=3)
    specs = [suggested(search, ray_id) for ray_id in "abc"]
    for ray_id, error in zip("abc", (True, False, True), strict=True):
        search.on_trial_complete(ray_id, result(EPOCHS, 0.4), error=error)
    on_disk(folder, specs[0], "failed", [0.1])
    assert ask_again(folder, "kd") == ["kd-t000", "kd-t002"]
    assert folder.status("kd-t000") is None
    assert (folder.root / "set_aside" / "kd-t000.1" / "records.json").is_file()

    again = driver(folder, trials=3)
    assert again.left == 2
    second = [suggested(again, ray_id) for ray_id in "xy"]
    assert second == [specs[0], specs[2]]
    again.on_trial_complete("x", result(EPOCHS, 0.5))
    again.on_trial_complete("y", None, error=True)
    states = [trial.state for trial in known_trials(folder, "kd")]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL]
    assert ask_again(folder, "kd") == ["kd-t002"]
    assert driver(folder, trials=3).left == 1


def test_failed_trial_that_its_driver_did_not_live_to_tell_of_is_asked_again(folder: StudyFolder) -> None:
    spec = suggested(driver(folder, trials=1), "a")
    on_disk(folder, spec, "failed", [0.1])
    assert [trial.state for trial in known_trials(folder, "kd")] == [TrialState.RUNNING]
    assert ask_again(folder, "kd") == [spec.id]
    again = driver(folder, trials=1)
    assert again.left == 1
    assert suggested(again, "x") == spec


def test_a_trial_whose_end_stands_in_the_journal_alone_goes_on_as_one_that_was_interrupted(folder: StudyFolder) -> None:
    """The disk was full: the journal had room for the failure, the trial's status had none."""
    search = driver(folder, trials=2)
    lost, done = suggested(search, "a"), suggested(search, "b")
    on_disk(folder, lost, "running", [0.1, 0.2])
    search.is_to_stop("a", result(1, 0.1))
    on_disk(folder, done, "completed", [0.4] * EPOCHS)
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("b", result(EPOCHS, 0.4))
    assert driver(folder, trials=2).left == 0

    assert reconcile(folder, "kd") == [lost.id]
    assert reconcile(folder, "kd") == []
    again = driver(folder, trials=2)
    assert again.left == 1 and suggested(again, "x") == lost
    assert known_trials(folder, "kd")[0].intermediate_values == {1: 0.1}  # no epoch is judged twice
    on_disk(folder, lost, "completed", [0.1, 0.2, 0.3, 0.3])
    again.on_trial_complete("x", result(EPOCHS, 0.3))
    assert [trial.value for trial in known_trials(folder, "kd")] == [0.3, 0.4]
    assert reconcile(folder, "kd") == []


def test_a_trial_that_the_scheduler_has_stopped_is_stopped_in_its_folder_too(folder: StudyFolder) -> None:
    search = driver(folder, scheduler=Asha(grace_epochs=1, reduction_factor=2))
    for ray_id, accuracy in (("a", 0.9), ("b", 0.1)):
        on_disk(folder, suggested(search, ray_id), "running", [accuracy])
        if search.is_to_stop(ray_id, result(1, accuracy)):
            search.on_trial_complete(ray_id, result(1, accuracy))
    assert reconcile(folder, "kd") == []
    status = folder.status("kd-t001")
    assert status is not None and (status.state, status.message) == ("stopped", "after epoch 1, by the scheduler")
    assert driver(folder).left == 7


def test_a_trial_whose_folder_was_removed_stays_as_the_journal_has_it(folder: StudyFolder) -> None:
    search = driver(folder, trials=1)
    suggested(search, "a")
    search.on_trial_complete("a", result(EPOCHS, 0.4))
    assert reconcile(folder, "kd") == [] and driver(folder, trials=1).left == 0


def test_no_trials_are_known_before_the_first(folder: StudyFolder) -> None:
    assert known_trials(folder, "kd") == []
    journal(folder.optuna)
    assert known_trials(folder, "kd") == []
