"""What may be said of a difference, and of a setting, against values worked out by hand."""

import math

import pytest
from scipy.stats import t

from kd_hpo.config.task import Classification
from kd_hpo.study.results.comparison import Comparison, MethodScores, Scores
from kd_hpo.study.results.significance import FEWEST_TRIALS, against_controls, holm, trends, trends_of_searches

NAN = float("nan")


def method(name: str, tests: list[float], *, is_control: bool = True) -> MethodScores:
    by_seed = {seed: Scores(test, test, test, 1.0) for seed, test in enumerate(tests)}
    return MethodScores(name, name.upper(), by_seed, (), is_control, 10, False, NAN, "none")


def comparison(*methods: MethodScores) -> Comparison:
    return Comparison("study", methods, (0, 1, 2), 4, {"val": 0.9, "test": 0.9}, {}, Classification.goal)


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    """.01 x 3 = .03; .04 x 2 = .08; .03 is second: .03 x 2 = .06, and .04 x 1 = .04 is raised to that."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([NAN, 0.02])
    assert math.isnan(corrected[0]) and corrected[1] == 0.02
    assert holm([]) == []


def test_a_tie_is_called_a_tie() -> None:
    """Against `worse` the differences are .10, .11, .12: t = .11 / (.01 / sqrt 3) = 19, p = .0027. Against `same` they are
    -.01, 0, .01: t = 0, p = 1. `doubtful` has .01, .02, .03: p = .074 (test_comparison)."""
    ours = method("ours", [0.5, 0.6, 0.7], is_control=False)
    worse, same = method("worse", [0.4, 0.49, 0.58]), method("same", [0.51, 0.6, 0.69])
    doubtful = method("doubtful", [0.49, 0.58, 0.67])
    found = against_controls(comparison(worse, same, doubtful, ours, method("never", [])), "ours")
    assert [test.control.name for test in found] == ["worse", "same", "doubtful"]
    assert [test.sign for test in found] == ["better", "tie", "tie"]
    assert found[0].p == pytest.approx(0.00274, abs=1e-4) and found[0].corrected == pytest.approx(3 * found[0].p)


def test_a_difference_that_correction_takes_away_is_said_to_be_so() -> None:
    """Differences .02, .03, .04: t = .03 / (.01 / sqrt 3) = 5.2, p = .035; of two tests, .07."""
    ours = method("ours", [0.5, 0.6, 0.7], is_control=False)
    found = against_controls(comparison(ours, method("a", [0.48, 0.57, 0.66]), method("b", [0.5, 0.61, 0.69])), "ours")
    assert (found[0].sign, found[0].survives) == ("better", False)
    alone = against_controls(comparison(ours, method("a", [0.52, 0.63, 0.74])), "ours")
    assert (alone[0].sign, alone[0].survives) == ("worse", True)


def test_one_seed_is_not_tested() -> None:
    found = against_controls(comparison(method("ours", [0.5], is_control=False), method("a", [0.4])), "ours")
    assert (found[0].sign, found[0].survives) == ("untested", False)


def point(number: int, accuracy: float | None, **settings: object) -> dict[str, object]:
    return {"trial": f"t{number}", "state": "completed", "score": accuracy, **settings}


def test_a_setting_that_accuracy_rises_with() -> None:
    points = [point(i, 0.5 + i / 20, lr=0.1 * 2**i, weight=-i, kind="a", same=1.0, flag=bool(i % 2)) for i in range(6)]
    points.append(point(6, None, lr=9.0, weight=9))
    lr, weight = trends(points)
    assert (lr.setting, lr.trials, lr.correlation, weight.correlation) == ("lr", 6, pytest.approx(1), pytest.approx(-1))
    assert lr.p < 0.01
    assert [lr.corrected, weight.corrected] == holm([lr.p, weight.p])
    assert (weight.setting, weight.trials) == ("weight", 6)


def test_trends_that_are_told_together_are_corrected_for_their_number() -> None:
    """By hand: of the three, sorted, the smallest p counts threefold, the next twofold, and none falls below the one before.
    Eight values in order but for neighbours that have changed places: the sum of the squared differences d is 2 a swap, rho is
    1 - 6 sum d^2 / (8 (64 - 1)), and p that of t = rho sqrt(6 / (1 - rho^2)) at six degrees of freedom."""
    orders = {"lr": [0, 1, 2, 3, 4, 5, 7, 6], "decay": [1, 0, 3, 2, 5, 4, 7, 6], "warmup": [7, 3, 1, 6, 0, 5, 2, 4]}
    p = {}
    for name, order in orders.items():
        rho = 1 - 6 * sum((i - each) ** 2 for i, each in enumerate(order)) / (8 * 63)
        p[name] = 2 * float(t.sf(abs(rho) * (6 / (1 - rho**2)) ** 0.5, 6))
    assert p["lr"] < p["decay"] < p["warmup"]
    first = [point(i, i / 10, lr=float(orders["lr"][i]), decay=float(orders["decay"][i])) for i in range(8)]
    second = [point(i, i / 10, warmup=float(orders["warmup"][i])) for i in range(8)]
    found = trends_of_searches({"a": first, "b": second, "c": []})
    lr, decay, warmup = 3 * p["lr"], max(3 * p["lr"], 2 * p["decay"]), p["warmup"]
    assert {trend.setting: trend.corrected for trend in found["a"]} == pytest.approx({"lr": lr, "decay": decay})
    assert [trend.corrected for trend in found["b"]] == pytest.approx([warmup]) and found["c"] == []
    assert [trend.corrected for trend in trends(first)] == pytest.approx([2 * p["lr"], max(2 * p["lr"], p["decay"])])


def test_few_trials_show_no_trend() -> None:
    assert trends([point(i, i / 10, lr=float(i)) for i in range(FEWEST_TRIALS - 1)]) == []
    assert trends([]) == []
