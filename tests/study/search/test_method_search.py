"""The search of one method, driven as Ray drives it: what Optuna's journal holds afterwards, what a second driver is given."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from kd_hpo.config.search import Asha, Hyperband, Tpe
from kd_hpo.config.study import IntRange
from kd_hpo.config.task import Classification, Goal
from kd_hpo.study.design.trials import judged_records
from kd_hpo.study.search.journal import ask_again, journal, known_trials
from kd_hpo.study.search.method_search import EPOCH
from kd_hpo.study.search.searcher import StudySearch
from kd_hpo.study.store.folder import State, StudyFolder, TrialStatus
from tests.conftest import digits_study
from tests.study.search.searches import EPOCHS, METRIC, SPACE, driver, on_disk, only, result, suggested

LOSS = Classification.loss.on("val")
HALVES = Asha(grace_epochs=1, reduction_factor=2)


def test_suggestion_is_a_trial_of_the_space(folder: StudyFolder) -> None:
    spec = suggested(driver(folder), "a")
    assert (spec.id, spec.kind, spec.method, spec.seed) == ("kd-t000", "search", "kd", 5)
    assert set(spec.settings) == set(SPACE)
    assert 0.01 <= spec.settings["training.optimizer.lr"] <= 0.2
    assert spec.settings["pairs.balance.every"] in range(1, 31)
    assert spec.settings["pairs.logits"] in ("inside", "outside")
    assert only(folder).params == spec.settings


def test_lambda_starts_where_the_best_trial_so_far_has_it_and_stays_so_in_a_trial_that_goes_on(folder: StudyFolder) -> None:
    known = [None, ((0.25, 0.75),), ((0.5, 0.5),)]

    def again() -> StudySearch:
        return driver(folder, start=lambda: known[0])

    first = again()
    assert suggested(first, "a").start is None
    known.pop(0)
    begun = suggested(first, "b")
    assert begun.start == ((0.25, 0.75),)
    on_disk(folder, begun, "running", [0.3])
    known.pop(0)  # the driver dies; another trial has become the best
    resumed = again()
    assert suggested(resumed, "c").start == ((0.5, 0.5),)  # of the first one, which had not begun
    assert suggested(resumed, "d") == begun


def test_first_trial_has_the_settings_of_the_file_as_far_as_the_space_allows(folder: StudyFolder) -> None:
    first = {"training.optimizer.lr": 0.05, "kd.weight": 9.0, "pairs.balance.every": 30, "pairs.logits": "inside"}
    search = driver(folder, first=(first,))
    settings = [suggested(search, ray_id).settings for ray_id in "ab"]
    assert {path: settings[0][path] for path in first if path != "kd.weight"} == {
        path: value for path, value in first.items() if path != "kd.weight"
    }
    assert 0.5 <= settings[0]["kd.weight"] <= 2.0  # 9 is outside
    assert settings[1]["training.optimizer.lr"] != 0.05
    again = driver(folder, first=(first,))
    assert [suggested(again, ray_id).settings for ray_id in "xy"] == settings
    assert suggested(again, "z").settings["training.optimizer.lr"] != 0.05


@pytest.mark.parametrize("goal", [Classification.loss, replace(Classification.agreement, split="unlabelled")])
def test_a_search_by_loss_or_agreement_wants_less_of_it(folder: StudyFolder, goal: Goal) -> None:
    search = driver(folder, goal=goal)
    for ray_id, value in (("a", 0.9), ("b", 0.7)):
        suggested(search, ray_id)
        search.on_trial_complete(ray_id, {EPOCH: EPOCHS, METRIC: 0.5, "val/agreement": 0.1, goal.key: value})
    assert optuna.load_study(study_name="kd", storage=journal(folder.optuna)).best_value == 0.7


def test_both_ends_of_an_int_range_are_chosen(folder: StudyFolder) -> None:
    search = driver(folder, {"pairs.balance.every": IntRange(low=3, high=4)})
    assert {suggested(search, str(i)).settings["pairs.balance.every"] for i in range(8)} == {3, 4}


def test_completed_trial_is_complete(folder: StudyFolder) -> None:
    search = driver(folder)
    search.suggest("a")
    for epoch in range(1, EPOCHS + 1):
        search.is_to_stop("a", result(epoch, epoch / 10))
    search.on_trial_complete("a", result(EPOCHS, 0.4))
    assert only(folder).state == TrialState.COMPLETE
    assert only(folder).value == 0.4


def test_stopped_trial_is_pruned_with_all_its_values(folder: StudyFolder) -> None:
    search = driver(folder)
    search.suggest("a")
    search.is_to_stop("a", result(1, 0.2))
    search.is_to_stop("a", result(2, 0.3))
    search.on_trial_complete("a", result(2, 0.3))
    assert only(folder).state == TrialState.PRUNED
    assert only(folder).intermediate_values == {1: 0.2, 2: 0.3}


@pytest.mark.parametrize(
    ("last", "error"),
    [(result(2, 0.3), True), (None, True), ({}, False)],
    ids=["error", "error before any result", "no result"],
)
def test_failure_is_fail_and_leaves_nothing_running(folder: StudyFolder, last: dict[str, Any] | None, error: bool) -> None:
    search = driver(folder)
    search.suggest("a")
    search.on_trial_complete("a", last, error=error)
    assert only(folder).state == TrialState.FAIL
    assert suggested(driver(folder), "x").id == "kd-t001"


@pytest.mark.parametrize(("goal", "worst"), [(Classification.goal, float("-inf")), (Classification.loss, float("inf"))])
@pytest.mark.parametrize("how", ["diverged", "nan", "inf"])
def test_settings_that_lead_nowhere_have_the_worst_value_of_the_goal(
    folder: StudyFolder, goal: Goal, worst: float, how: str
) -> None:
    search = driver(folder, goal=goal)
    spec = suggested(search, "a")
    search.is_to_stop("a", {EPOCH: 1, METRIC: 0.2, LOSS: 1.0})
    if how == "diverged":
        folder.write_status(TrialStatus(spec=spec, state="failed", message="the loss is not finite", of_settings=True))
    value = {"diverged": 0.2, "nan": float("nan"), "inf": float("inf")}[how]
    search.on_trial_complete("a", {EPOCH: 1 if how == "diverged" else EPOCHS, METRIC: value, LOSS: value})
    assert (only(folder).state, only(folder).value) == (TrialState.COMPLETE, worst)
    assert suggested(driver(folder, goal=goal), "x").id == "kd-t001"


def test_next_driver_tells_of_a_trial_that_diverged_before_the_last_one_died(folder: StudyFolder) -> None:
    spec = suggested(driver(folder), "a")
    folder.write_status(TrialStatus(spec=spec, state="failed", of_settings=True))
    driver(folder)
    assert only(folder).value == float("-inf")
    assert ask_again(folder, "kd") == ["kd-t000"]  # it has failed all the same
    assert suggested(driver(folder), "x").settings == spec.settings


def test_trial_that_caught_its_own_error_is_fail(folder: StudyFolder) -> None:
    """It ends without an error for Ray, after good epochs; only its folder knows that it diverged."""
    search = driver(folder)
    spec = suggested(search, "a")
    search.is_to_stop("a", result(1, 0.2))
    on_disk(folder, spec, "failed", [0.2])
    search.on_trial_complete("a", result(1, 0.2))
    assert only(folder).state == TrialState.FAIL


def test_results_that_are_not_finite_or_come_twice_are_left_out(folder: StudyFolder, recwarn: pytest.WarningsRecorder) -> None:
    search = driver(folder)
    search.suggest("a")
    for accuracy in (0.2, 0.9):
        search.is_to_stop("a", result(1, accuracy))
    search.is_to_stop("a", result(2, float("nan")))
    assert only(folder).intermediate_values == {1: 0.2}
    assert not [warning for warning in recwarn if "already reported" in str(warning.message)]


def test_end_is_told_once(folder: StudyFolder) -> None:
    search = driver(folder)
    search.suggest("a")
    search.on_trial_complete("a", result(EPOCHS, 0.4))
    search.on_trial_complete("a", None, error=True)
    search.on_trial_complete("never suggested", None, error=True)
    assert only(folder).state == TrialState.COMPLETE


def test_next_driver_continues_unfinished_trials_first_and_repeats_no_finished_one(folder: StudyFolder) -> None:
    search = driver(folder)
    first = [suggested(search, ray_id) for ray_id in "abc"]
    search.is_to_stop("b", result(1, 0.2))
    search.on_trial_complete("b", result(EPOCHS, 0.4))
    on_disk(folder, first[0], "running", [0.1])  # the third was suggested, and its trial never started

    again = driver(folder)
    second = [suggested(again, ray_id) for ray_id in "xyz"]
    assert second[:2] == [first[0], first[2]]
    assert second[2].id == "kd-t003"
    for epoch in range(1, EPOCHS + 1):
        again.is_to_stop("x", result(epoch, 0.3))
    again.on_trial_complete("x", result(EPOCHS, 0.3))
    states = [trial.state for trial in known_trials(folder, "kd")]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING, TrialState.RUNNING]


def test_same_ray_trial_gets_the_same_suggestion(folder: StudyFolder) -> None:
    search = driver(folder)
    assert search.suggest("a") == search.suggest("a")
    assert len(known_trials(folder, "kd")) == 1


@pytest.mark.parametrize(
    ("state", "accuracies", "expected"),
    [
        ("completed", [0.1, 0.2, 0.3, 0.4], TrialState.COMPLETE),
        ("stopped", [0.1, 0.2], TrialState.PRUNED),
        ("failed", [0.1, 0.2], TrialState.FAIL),
        ("failed", [], TrialState.FAIL),
    ],
)
def test_next_driver_learns_of_ends_that_are_on_disk(
    folder: StudyFolder, state: State, accuracies: list[float], expected: TrialState
) -> None:
    """The driver died between the trial's end and telling Optuna of it."""
    on_disk(folder, suggested(driver(folder), "a"), state, accuracies)
    assert suggested(driver(folder), "x").id == "kd-t001"
    caught = known_trials(folder, "kd")[0]
    assert caught.state == expected
    assert caught.value == (0.4 if state == "completed" else 0.2 if state == "stopped" else None)


def test_next_driver_does_not_suggest_the_same_points(folder: StudyFolder) -> None:
    search = driver(folder)
    first = [suggested(search, str(i)) for i in range(3)]
    for i in range(3):
        search.on_trial_complete(str(i), result(EPOCHS, 0.1))
    again = driver(folder)
    second = [suggested(again, str(i)) for i in range(3)]
    weights = [spec.settings["kd.weight"] for spec in first + second]
    assert len(set(weights)) == 6


def test_same_seed_gives_the_same_first_points(tmp_path: Path) -> None:
    one, two = (suggested(driver(StudyFolder(tmp_path / name)), "a").settings for name in ("one", "two"))
    assert one == two


def test_trial_whose_suggestion_was_cut_short_gets_all_its_settings(folder: StudyFolder) -> None:
    """The driver died while it wrote the parameters of a new trial into the journal."""
    spec = suggested(driver(folder), "a")
    lines = folder.optuna.read_text().splitlines(keepends=True)
    folder.optuna.write_text("".join(lines[:-2]))
    kept = only(folder).params
    assert 0 < len(kept) < len(spec.settings)
    again = suggested(driver(folder), "x")
    assert again.id == spec.id
    assert set(again.settings) == set(SPACE)
    assert kept.items() <= again.settings.items()


# whom it stops


def test_a_new_trial_is_judged_by_those_that_ended_earlier(folder: StudyFolder) -> None:
    first = driver(folder, scheduler=HALVES)
    suggested(first, "a")
    assert not any(first.is_to_stop("a", result(epoch, value)) for epoch, value in enumerate((0.5, 0.6, 0.7, 0.8), 1))
    first.on_trial_complete("a", result(4, 0.8))
    again = driver(folder, scheduler=HALVES)
    suggested(again, "x")
    assert [again.is_to_stop("x", result(epoch, 0.55)) for epoch in (1, 2)] == [False, True]


def test_trial_that_goes_on_is_not_judged_again_at_the_epochs_it_has_passed(folder: StudyFolder) -> None:
    """It was the first to pass epoch 1; the other came later, with more there, and fell behind at epoch 2."""
    first = driver(folder, scheduler=HALVES)
    for ray_id in "ab":
        suggested(first, ray_id)
    told = [("a", 1, 0.1), ("b", 1, 0.5), ("a", 2, 0.6), ("b", 2, 0.5)]
    assert [first.is_to_stop(ray_id, result(epoch, value)) for ray_id, epoch, value in told] == [False, False, False, True]
    first.on_trial_complete("b", result(2, 0.5))
    again = driver(folder, scheduler=HALVES)
    suggested(again, "x")
    assert not any(again.is_to_stop("x", result(epoch, value)) for epoch, value in ((1, 0.1), (2, 0.6), (3, 0.4), (4, 0.4)))


def test_a_decision_that_the_driver_did_not_live_to_carry_out_is_carried_out_by_the_next(folder: StudyFolder) -> None:
    first = driver(folder, scheduler=HALVES)
    for ray_id in "ab":
        suggested(first, ray_id)
    first.is_to_stop("a", result(2, 0.6))
    first.is_to_stop("b", result(1, 0.2))
    assert first.is_to_stop("b", result(2, 0.5))
    again = driver(folder, scheduler=HALVES)
    for ray_id in "xy":
        suggested(again, ray_id)
    assert [again.is_to_stop("y", result(epoch, value)) for epoch, value in ((1, 0.2), (2, 0.5))] == [False, True]


def test_no_trial_is_stopped_at_its_last_epoch(folder: StudyFolder) -> None:
    search = driver(folder, scheduler=HALVES, epochs=2)
    for ray_id, accuracy in (("a", 0.9), ("b", 0.1)):
        suggested(search, ray_id)
        assert not search.is_to_stop(ray_id, result(2, accuracy))


def test_trials_of_fewer_epochs_than_the_grace_are_left_alone(folder: StudyFolder) -> None:
    search = driver(folder, scheduler=Asha(), epochs=2)
    for ray_id, accuracy in (("a", 0.9), ("b", 0.1)):
        suggested(search, ray_id)
        assert not any(search.is_to_stop(ray_id, result(epoch, accuracy)) for epoch in (1, 2))


def test_the_larger_loss_is_stopped_where_the_search_goes_by_it(folder: StudyFolder) -> None:
    search = driver(folder, scheduler=HALVES, goal=Classification.loss)
    losses = []
    for ray_id, accuracy, loss in (("a", 0.1, 0.5), ("b", 0.9, 0.6), ("c", 0.1, 0.4)):
        suggested(search, ray_id)
        losses.append(search.is_to_stop(ray_id, {EPOCH: 1, METRIC: accuracy, LOSS: loss}))
    assert losses == [False, True, False]


def test_the_failed_run_of_a_trial_that_runs_again_judges_none(folder: StudyFolder) -> None:
    """Of which it would be one too many: the new run is there."""
    first = driver(folder, scheduler=HALVES)
    on_disk(folder, suggested(first, "a"), "failed", [0.9])
    first.is_to_stop("a", result(1, 0.9))
    first.on_trial_complete("a", None, error=True)
    ask_again(folder, "kd")
    again = driver(folder, scheduler=HALVES)
    for ray_id in "xy":
        suggested(again, ray_id)
    assert [again.is_to_stop(ray_id, result(1, value)) for ray_id, value in (("x", 0.1), ("y", 0.2))] == [False, False]


def test_an_end_that_is_caught_up_judges_later_trials(tmp_path: Path) -> None:
    """By its judged epochs: two of four have the pairs alone, where accuracy is chance."""
    study = digits_study(
        tmp_path,
        pairs={"stages": {"kind": "pairs_first", "share": 0.5}},
        training={"epochs": EPOCHS, "batch_size": 32},
    )
    folder = StudyFolder.of(study)
    options: dict[str, Any] = {"method": "hetero", "scheduler": HALVES, "judged": partial(judged_records, study, folder)}
    space = {"kd.weight": SPACE["kd.weight"]}
    spec = suggested(driver(folder, space, **options), "a")
    on_disk(folder, spec, "completed", [0.1, 0.1, 0.7, 0.8])
    search = driver(folder, space, **options)
    suggested(search, "x")
    assert known_trials(folder, "hetero")[0].intermediate_values == {3: 0.7, 4: 0.8}
    assert search.is_to_stop("x", result(3, 0.3))


def test_under_hyperband_a_driver_that_has_judged_no_trial_yet_suggests_what_the_last_one_would(folder: StudyFolder) -> None:
    """Optuna's HyperBand makes its brackets when it is first asked about a trial, and wraps what a sampler sees."""
    options: dict[str, Any] = {"scheduler": Hyperband(grace_epochs=1, reduction_factor=2), "sampler": Tpe(startup_trials=2)}
    search = driver(folder, trials=20, **options)
    for number in range(12):
        weight = suggested(search, str(number)).settings["kd.weight"]
        search.is_to_stop(str(number), result(1, weight))
        search.on_trial_complete(str(number), result(EPOCHS, weight))
    shutil.copytree(folder.root, other := folder.root.with_name("other"))
    again = driver(StudyFolder(other), trials=20, **options)
    assert suggested(again, "x") == suggested(search, "x")


def test_first_trials_come_in_their_order_and_none_is_lost_or_doubled_by_a_driver_that_dies(folder: StudyFolder) -> None:
    arms = tuple({"kd.weight": weight} for weight in (0.6, 0.9, 1.2, 1.5))
    one = driver(folder, first=arms)
    specs = [suggested(one, ray_id) for ray_id in "ab"]
    on_disk(folder, specs[0], "failed", [])
    one.on_trial_complete("a", {}, error=True)
    on_disk(folder, specs[1], "running", [0.3])
    ask_again(folder, "kd")  # the failed one waits, with the settings that it had
    two = driver(folder, first=arms)
    given = [suggested(two, ray_id) for ray_id in "cdefg"]
    assert [spec.id for spec in given] == ["kd-t001", "kd-t000", "kd-t003", "kd-t004", "kd-t005"]
    assert [spec.settings["kd.weight"] for spec in given[:4]] == [0.9, 0.6, 1.2, 1.5]
    assert given[4].settings["kd.weight"] not in (0.6, 0.9, 1.2, 1.5)
