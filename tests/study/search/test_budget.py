"""What ends a search before it has had all its trials, on made-up trials and a clock that a test sets."""

from typing import Any

import pytest
from optuna.trial import TrialState

from kd_hpo.errors import StudyError
from kd_hpo.study.search.budget import USED, Budget, expected_gain
from kd_hpo.study.search.journal import BY_SCHEDULER, known_trials, reconcile
from kd_hpo.study.search.searcher import TIME, StudySearch
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from tests.conftest import digits_study
from tests.study.search.searches import EPOCHS, method_search, on_disk, only, result, suggested

HOUR = 3600.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Driver:
    """A search under a budget, as one driver has it."""

    def __init__(self, folder: StudyFolder, clock: Clock, *, trials: int = 4, **budget: Any) -> None:
        self.folder, self.clock, self.why = folder, clock, dict[str, str]()
        self.budget = Budget(digits_study(folder.root.parent, search={"trials": trials, **budget}), folder, clock=clock)
        self.search = StudySearch(
            [method_search(folder, trials=trials)],
            folder.optuna,
            budget=self.budget,
            stopped_for=lambda trial, why: self.why.update({trial: why}),
        )

    def complete(self, ray_id: str, spec: TrialSpec, accuracy: float, *, hours: float) -> None:
        on_disk(self.folder, spec, "completed", [accuracy] * EPOCHS)
        status = self.folder.status(spec.id)
        assert status is not None
        self.folder.write_status(status.replace(duration_s=hours * HOUR))
        self.search.on_trial_complete(ray_id, result(EPOCHS, accuracy))

    def asks(self, ray_id: str) -> bool:
        return self.search.suggest(ray_id) != StudySearch.FINISHED


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_trial_is_asked_for_while_it_would_end_in_time(folder: StudyFolder, clock: Clock) -> None:
    driver = Driver(folder, clock, hours=3.0)
    with driver.budget.counting():
        one = suggested(driver.search, "a")
        clock.now = 1.2 * HOUR
        driver.complete("a", one, 0.5, hours=1.2)
        two = suggested(driver.search, "b")
        clock.now = 2.4 * HOUR
        assert not driver.asks("c") and "search.hours 3" in driver.budget.over
        driver.complete("b", two, 0.6, hours=0.2)  # the median is shorter now, and what was decided holds
        assert driver.budget.left_s == pytest.approx(0.6 * HOUR)
    again = Driver(folder, clock, hours=3.0)  # the next driver, who knows of the hours
    assert again.budget.used_s == pytest.approx(2.4 * HOUR) and not again.asks("d")
    assert Driver(folder, clock, hours=4.0).asks("e")
    assert Driver(folder, clock, hours=None).asks("f")


def test_what_runs_when_the_hours_are_over_is_stopped_after_an_epoch(folder: StudyFolder, clock: Clock) -> None:
    driver = Driver(folder, clock, hours=1.0)
    with driver.budget.counting():
        spec = suggested(driver.search, "a")
        assert not driver.search.is_to_stop("a", result(1, 0.5))
        clock.now = HOUR
        assert driver.search.is_to_stop("a", result(2, 0.5))
    assert driver.why == {spec.id: "as search.hours 1 were over"}
    on_disk(folder, spec, "running", [0.5, 0.5])
    driver.search.on_trial_complete("a", result(2, 0.5))
    assert only(folder).state == TrialState.PRUNED
    reconcile(folder, "kd")  # the driver died before it wrote the end
    status = folder.status(spec.id)
    assert status is not None and status.message == "after epoch 2, as search.hours 1 were over" != BY_SCHEDULER


def test_trials_that_an_earlier_driver_asked_for_go_on(folder: StudyFolder, clock: Clock) -> None:
    driver = Driver(folder, clock, hours=1.0)
    with driver.budget.counting():
        running = suggested(driver.search, "a")
        on_disk(folder, running, "running", [0.5])
        clock.now = 2 * HOUR
    again = Driver(folder, clock, hours=1.0)
    assert suggested(again.search, "x") == running and not again.asks("y")
    assert again.search.is_to_stop("x", result(1, 0.5))


def test_a_trial_that_takes_too_long_is_stopped_and_told_so(folder: StudyFolder, clock: Clock) -> None:
    first = Driver(folder, clock, trial_hours=1.0)
    with first.budget.counting():
        spec = suggested(first.search, "a")
        assert not first.search.is_to_stop("a", result(1, 0.5) | {TIME: 0.6 * HOUR})
    second = Driver(folder, clock, trial_hours=1.0)
    assert suggested(second.search, "b") == spec
    assert second.search.is_to_stop("b", result(2, 0.5) | {TIME: 0.5 * HOUR})  # beside that of its earlier attempt
    assert "longer than search.trial_hours 1" in second.why[spec.id]


@pytest.mark.parametrize(
    ("values", "reached"), [([0.5, 0.89], ""), ([0.5, 0.9], "kd-t001 (accuracy 0.9000) reached search.until 0.9")]
)
def test_a_search_ends_at_a_value(folder: StudyFolder, clock: Clock, values: list[float], reached: str) -> None:
    driver = Driver(folder, clock, until=0.9)
    for ray_id, value in zip("ab", values, strict=True):
        driver.complete(ray_id, suggested(driver.search, ray_id), value, hours=1)
    assert driver.budget.over == reached and driver.asks("c") == (not reached)
    assert Driver(folder, clock, until=0.9).budget.over == reached
    assert len(known_trials(folder, "kd")) == 2 + (not reached)


def test_a_loss_ends_a_search_from_above(folder: StudyFolder, clock: Clock) -> None:
    driver = Driver(folder, clock, until=0.3, by="loss")
    spec = suggested(driver.search, "a")
    on_disk(folder, spec, "completed", [0.5])
    status = folder.status(spec.id)
    assert status is not None
    driver.budget.completed(status, 0.31)
    assert not driver.budget.over
    driver.budget.completed(status, 0.3)
    assert "loss 0.3000" in driver.budget.over.replace("cross-entropy", "loss")


def test_what_another_hour_would_bring(folder: StudyFolder, clock: Clock) -> None:
    driver = Driver(folder, clock, trials=9)
    assert "too few trials have completed (0)" in driver.budget.further_hour()
    with driver.budget.counting():
        for ray_id, value in zip("abcd", (0.5, 0.6, 0.4, 0.5), strict=True):
            driver.complete(ray_id, suggested(driver.search, ray_id), value, hours=0.1)
        clock.now = 2 * HOUR
    assert (
        "another hour (about 2 completed trials) would probably change the best accuracy by +0.0" in driver.budget.further_hour()
    )


def test_the_expected_gain_is_that_of_the_largest_of_normal_draws() -> None:
    gain, chance = expected_gain([-1.0, 1.0], 0.0, 1)  # mean 0, deviation sqrt 2: E max(0, x) is deviation / sqrt(2 pi)
    assert gain == pytest.approx(2**0.5 / (2 * 3.14159265) ** 0.5, rel=1e-3) and chance == pytest.approx(0.5)
    assert expected_gain([0.0, 1.0], 2.0, 9)[0] > expected_gain([0.0, 1.0], 2.0, 1)[0] > 0
    assert expected_gain([0.5, 0.5], 0.5, 9) == (0.0, 0.0)


def test_a_broken_file_of_the_time_is_named(folder: StudyFolder, clock: Clock) -> None:
    folder.root.mkdir(exist_ok=True)
    (folder.root / USED).write_text("{")
    with pytest.raises(StudyError, match=r"search_time\.json is broken; remove it"):
        Driver(folder, clock)
