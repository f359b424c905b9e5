"""Searches, driven by hand as Ray drives them: what Optuna's journal holds afterwards, and what a second driver is given."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from kd_hpo.config.study import Asha, IntRange, Range, Search
from kd_hpo.study.design.trials import Searched, judged_records
from kd_hpo.study.search.searcher import (
    EPOCH,
    MethodSearch,
    StudyAsha,
    StudySearch,
    TpeOfOneSpace,
    ask_again,
    journal,
    known_trials,
    mend_journal,
)
from kd_hpo.study.search.space import ray_space
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec, TrialStatus
from kd_hpo.trial.result import GOALS, LOSS, METRIC, EpochRecord, Goal
from tests.conftest import digits_study

EPOCHS = 4
SPACE = Search.model_validate(
    {
        "space": {
            "training.optimizer.lr": {"kind": "loguniform", "low": 0.01, "high": 0.2},
            "kd.weight": {"kind": "uniform", "low": 0.5, "high": 2.0},
            "pairs.balance.every": {"kind": "int", "low": 1, "high": 30},
            "pairs.logits": {"kind": "choice", "values": ["inside", "outside"]},
        },
    }
).space


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")


def driver(
    folder: StudyFolder,
    space: dict[str, Range] = SPACE,
    *,
    method: str = "kd",
    trials: int = 8,
    first: dict[str, Any] | None = None,
    goal: Goal = GOALS["accuracy"],
) -> MethodSearch:
    searched = Searched(method, trials, space, first or {})
    return MethodSearch(searched, folder, goal=goal, trial_seed=5, sampler_seed=0, epochs=EPOCHS)


def suggested(search: MethodSearch | StudySearch, ray_id: str) -> TrialSpec:
    return TrialSpec.model_validate(search.suggest(ray_id)["spec"])


def result(epoch: int, accuracy: float) -> dict[str, Any]:
    return {EPOCH: epoch, METRIC: accuracy}


def on_disk(folder: StudyFolder, spec: TrialSpec, state: State, accuracies: list[float]) -> None:
    folder.write_status(TrialStatus(spec=spec, state=state))
    records = [
        EpochRecord(epoch=i, metrics={METRIC: value}, weights=(), scales=(), held=True) for i, value in enumerate(accuracies, 1)
    ]
    folder.write_records(spec.id, records)


def only(folder: StudyFolder) -> optuna.trial.FrozenTrial:
    (trial,) = known_trials(folder, "kd")
    return trial


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

    def again() -> MethodSearch:
        return MethodSearch(Searched("kd", 8, SPACE), folder, trial_seed=5, sampler_seed=0, epochs=EPOCHS, start=lambda: known[0])

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
    search = driver(folder, first=first)
    settings = [suggested(search, ray_id).settings for ray_id in "ab"]
    assert {path: settings[0][path] for path in first if path != "kd.weight"} == {
        path: value for path, value in first.items() if path != "kd.weight"
    }
    assert 0.5 <= settings[0]["kd.weight"] <= 2.0  # 9 is outside
    assert settings[1]["training.optimizer.lr"] != 0.05
    again = driver(folder, first=first)
    assert [suggested(again, ray_id).settings for ray_id in "xy"] == settings
    assert suggested(again, "z").settings["training.optimizer.lr"] != 0.05


def test_a_search_by_loss_wants_less_of_it(folder: StudyFolder) -> None:
    search = driver(folder, goal=GOALS["loss"])
    for ray_id, loss in (("a", 0.9), ("b", 0.7)):
        suggested(search, ray_id)
        search.on_trial_complete(ray_id, {EPOCH: EPOCHS, METRIC: 0.5, LOSS: loss})
    assert optuna.load_study(study_name="kd", storage=journal(folder.optuna)).best_value == 0.7


def test_both_ends_of_an_int_range_are_chosen(folder: StudyFolder) -> None:
    search = driver(folder, {"pairs.balance.every": IntRange(low=3, high=4)})
    assert {suggested(search, str(i)).settings["pairs.balance.every"] for i in range(8)} == {3, 4}


def test_completed_trial_is_complete(folder: StudyFolder) -> None:
    search = driver(folder)
    search.suggest("a")
    for epoch in range(1, EPOCHS + 1):
        search.on_trial_result("a", result(epoch, epoch / 10))
    search.on_trial_complete("a", result(EPOCHS, 0.4))
    assert only(folder).state == TrialState.COMPLETE
    assert only(folder).value == 0.4


def test_stopped_trial_is_pruned_with_all_its_values(folder: StudyFolder) -> None:
    """Ray does not pass on the result at which the scheduler stops a trial; TPE needs it nevertheless."""
    search = driver(folder)
    search.suggest("a")
    search.on_trial_result("a", result(1, 0.2))
    search.on_trial_complete("a", result(2, 0.3))
    assert only(folder).state == TrialState.PRUNED
    assert only(folder).intermediate_values == {1: 0.2, 2: 0.3}


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (result(EPOCHS, float("nan")), False),
        (result(EPOCHS, float("inf")), False),
        (result(2, 0.3), True),
        (None, True),
        ({}, False),
    ],
    ids=["nan", "inf", "error", "error before any result", "no result"],
)
def test_failure_is_fail_and_leaves_nothing_running(folder: StudyFolder, last: dict[str, Any] | None, error: bool) -> None:
    search = driver(folder)
    search.suggest("a")
    search.on_trial_complete("a", last, error=error)
    assert only(folder).state == TrialState.FAIL
    assert driver(folder)._unfinished == []


def test_trial_that_caught_its_own_error_is_fail(folder: StudyFolder) -> None:
    """It ends without an error for Ray, after good epochs; only its folder knows that it diverged."""
    search = driver(folder)
    spec = suggested(search, "a")
    search.on_trial_result("a", result(1, 0.2))
    on_disk(folder, spec, "failed", [0.2])
    search.on_trial_complete("a", result(1, 0.2))
    assert only(folder).state == TrialState.FAIL


def test_results_that_are_not_finite_or_come_twice_are_left_out(folder: StudyFolder, recwarn: pytest.WarningsRecorder) -> None:
    search = driver(folder)
    search.suggest("a")
    for accuracy in (0.2, 0.9):
        search.on_trial_result("a", result(1, accuracy))
    search.on_trial_result("a", result(2, float("nan")))
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
    search.on_trial_result("b", result(1, 0.2))
    search.on_trial_complete("b", result(EPOCHS, 0.4))
    on_disk(folder, first[0], "running", [0.1])  # the third was suggested, and its trial never started

    again = driver(folder)
    second = [suggested(again, ray_id) for ray_id in "xyz"]
    assert second[:2] == [first[0], first[2]]
    assert second[2].id == "kd-t003"
    for epoch in range(1, EPOCHS + 1):
        again.on_trial_result("x", result(epoch, 0.3))
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


def test_the_space_is_told_to_optuna_and_changes_no_suggestion() -> None:
    """Past the random first ten, with trials of every end, and a setting without a choice."""
    space = OptunaSearch.convert_search_space(ray_space(SPACE)) | {"fixed": CategoricalDistribution([1])}
    given: list[list[dict[str, Any]]] = []
    for sampler in (TPESampler, partial(TpeOfOneSpace, space)):
        study = optuna.create_study(direction="maximize")
        for number in range(30):
            study.sampler = sampler(seed=number)
            trial = study.ask(fixed_distributions=space)
            if number % 5 == 3:
                study.tell(trial, state=TrialState.FAIL)
            elif number % 5 == 4:
                trial.report(trial.params["kd.weight"], 1)
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, trial.params["kd.weight"])
        given.append([trial.params for trial in study.trials])
    assert given[0] == given[1]


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


def test_an_interrupted_search_suggests_what_an_undisturbed_one_does(tmp_path: Path) -> None:
    """Beyond the first ten trials too, which TPE draws at random."""

    def suggestions(folder: StudyFolder, *, every: int) -> list[dict[str, Any]]:
        found = []
        for number in range(14):
            if number % every == 0:
                search = driver(folder, trials=14)
            spec = suggested(search, str(number))
            search.on_trial_complete(str(number), result(EPOCHS, spec.settings["kd.weight"]))
            found.append(spec.settings)
        return found

    assert suggestions(StudyFolder(tmp_path / "a"), every=14) == suggestions(StudyFolder(tmp_path / "b"), every=3)


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


def test_no_trials_are_known_before_the_first(folder: StudyFolder) -> None:
    assert known_trials(folder, "kd") == []
    journal(folder.optuna)
    assert known_trials(folder, "kd") == []


# the searches of several methods


def test_methods_are_searched_one_after_the_other_each_in_its_own_study(folder: StudyFolder) -> None:
    both = StudySearch([driver(folder, trials=2), driver(folder, {"kd.weight": SPACE["kd.weight"]}, method="ce", trials=1)])
    specs = [suggested(both, ray_id) for ray_id in "abc"]
    assert [(spec.id, spec.method) for spec in specs] == [("kd-t000", "kd"), ("kd-t001", "kd"), ("ce-t000", "ce")]
    assert suggested(both, "a") == specs[0]
    assert both.suggest("d") == StudySearch.FINISHED
    assert set(specs[2].settings) == {"kd.weight"}
    for ray_id in "cab":
        both.on_trial_result(ray_id, result(1, 0.2))
        both.on_trial_complete(ray_id, result(EPOCHS, 0.4))
    both.on_trial_complete("never suggested", None, error=True)
    states = {method: [trial.state for trial in known_trials(folder, method)] for method in ("kd", "ce")}
    assert states == {"kd": [TrialState.COMPLETE] * 2, "ce": [TrialState.COMPLETE]}


def test_next_driver_asks_for_what_is_left_of_each_search(folder: StudyFolder) -> None:
    first = driver(folder, trials=3)
    going, ended = suggested(first, "a"), suggested(first, "b")
    first.on_trial_complete("b", result(EPOCHS, 0.4))
    on_disk(folder, going, "running", [0.1])
    searches = [driver(folder, trials=3), driver(folder, method="ce", trials=1)]
    assert [search.left for search in searches] == [2, 1]
    both = StudySearch(searches)
    ids = [suggested(both, ray_id).id for ray_id in "xyz"]
    assert ids == ["kd-t000", "kd-t002", "ce-t000"] and ended.id == "kd-t001"


def test_an_end_that_the_driver_has_not_told_of_counts_as_one_of_the_trials(folder: StudyFolder) -> None:
    on_disk(folder, suggested(driver(folder, trials=2), "a"), "failed", [0.1])
    assert StudySearch([driver(folder, trials=2)]).left == 1


def test_a_search_has_no_more_than_its_trials(folder: StudyFolder) -> None:
    for trials, left in ((1, 1), (1, 0), (0, 0)):
        search = driver(folder, trials=trials)
        assert search.left == left
        if left == 1:
            search.suggest("a")
            search.on_trial_complete("a", result(EPOCHS, 0.4))
        else:
            assert StudySearch([search]).suggest("a") == StudySearch.FINISHED


# the scheduler


def asha(folder: StudyFolder, goal: Goal = GOALS["accuracy"]) -> StudyAsha:
    return StudyAsha(Asha(grace_epochs=1, reduction_factor=2), folder, goal=goal, epochs=EPOCHS)


def added(scheduler: StudyAsha, spec: TrialSpec, ray_id: str) -> SimpleNamespace:
    trial = SimpleNamespace(trial_id=ray_id, config={"spec": spec.model_dump()})
    scheduler.on_trial_add(None, trial)
    return trial


def test_scheduler_judges_new_trials_by_those_that_ended_earlier(folder: StudyFolder) -> None:
    first, second = (suggested(driver(folder), "a"), TrialSpec(id="kd-t001", kind="search", method="kd", seed=5))
    on_disk(folder, first, "completed", [0.5, 0.6, 0.7, 0.8])
    scheduler = asha(folder)
    trial = added(scheduler, second, "x")
    assert scheduler.on_trial_result(None, trial, result(1, 0.55)) == "CONTINUE"
    assert scheduler.on_trial_result(None, trial, result(2, 0.55)) == "STOP"


def test_trial_that_goes_on_is_not_judged_again_at_the_epochs_it_has_passed(folder: StudyFolder) -> None:
    """It was the first to pass epoch 1; the other came later, with more there, and fell behind at epoch 2."""
    search = driver(folder)
    going, other = suggested(search, "a"), suggested(search, "b")
    on_disk(folder, going, "running", [0.1, 0.6])
    on_disk(folder, other, "stopped", [0.5, 0.5])
    scheduler = asha(folder)
    trial = added(scheduler, going, "x")
    retold = [scheduler.on_trial_result(None, trial, result(epoch, value)) for epoch, value in ((1, 0.1), (2, 0.6))]
    assert retold == ["CONTINUE", "CONTINUE"]
    assert [scheduler.on_trial_result(None, trial, result(epoch, 0.4)) for epoch in (3, 4)] == ["CONTINUE", "CONTINUE"]


def test_epochs_without_labels_are_judged_neither_then_nor_when_the_study_is_continued(tmp_path: Path) -> None:
    """Two of four have the pairs alone: accuracy is chance, and the trial that ended was judged by the two after them."""
    study = digits_study(
        tmp_path,
        pairs={"stages": {"kind": "pairs_first", "share": 0.5}},
        training={"epochs": EPOCHS, "batch_size": 32},
    )
    folder = StudyFolder.of(study)
    spec = TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=0)
    on_disk(folder, spec, "completed", [0.1, 0.1, 0.7, 0.8])
    judged = partial(judged_records, study, folder)
    assert [record.epoch for record in judged(spec)] == [3, 4]
    scheduler = StudyAsha(Asha(grace_epochs=1, reduction_factor=2), folder, epochs=EPOCHS, judged=judged)
    trial = added(scheduler, TrialSpec(id="hetero-t001", kind="search", method="hetero", seed=0), "x")
    assert scheduler.on_trial_result(None, trial, result(3, 0.3)) == "STOP"


def test_scheduler_stops_what_has_the_larger_loss_where_the_search_goes_by_it(folder: StudyFolder) -> None:
    scheduler = asha(folder, GOALS["loss"])
    one, two = (added(scheduler, TrialSpec(id=name, kind="search", method="kd", seed=5), name) for name in "ab")
    assert scheduler.on_trial_result(None, one, {EPOCH: 1, METRIC: 0.1, LOSS: 0.5}) == "CONTINUE"
    assert scheduler.on_trial_result(None, two, {EPOCH: 1, METRIC: 0.9, LOSS: 0.6}) == "STOP"


def test_trials_of_fewer_epochs_than_the_default_has_grace_for_are_all_left_alone(folder: StudyFolder) -> None:
    scheduler = StudyAsha(Asha(), folder, epochs=2)
    one, two = (added(scheduler, TrialSpec(id=name, kind="search", method="kd", seed=5), name) for name in "ab")
    assert [scheduler.on_trial_result(None, one, result(epoch, 0.9)) for epoch in (1, 2)] == ["CONTINUE", "CONTINUE"]
    assert scheduler.on_trial_result(None, two, result(1, 0.1)) == "CONTINUE"


def test_trials_of_one_method_are_not_judged_by_those_of_another(folder: StudyFolder) -> None:
    other = suggested(driver(folder, method="strong"), "a")
    on_disk(folder, other, "completed", [0.9, 0.9, 0.9, 0.9])
    scheduler = asha(folder)
    weak, weaker, strong = (
        added(scheduler, TrialSpec(id=name, kind="search", method=method, seed=5), name)
        for name, method in (("a", "weak"), ("b", "weak"), ("c", "strong"))
    )
    assert scheduler.on_trial_result(None, weak, result(1, 0.2)) == "CONTINUE"
    assert scheduler.on_trial_result(None, weaker, result(1, 0.1)) == "STOP"
    assert scheduler.on_trial_result(None, strong, result(1, 0.8)) == "STOP"
