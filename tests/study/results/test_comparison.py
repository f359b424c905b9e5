"""The numbers of a comparison against values worked out by hand, from a folder made by hand."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Classification
from kd_hpo.config.weightings import NoPairs
from kd_hpo.study.design.trials import searches
from kd_hpo.study.results.comparison import COLUMNS, Comparison, compared, mean_ranks, not_worse, paired, spread
from kd_hpo.study.results.final_scores import shared_scores
from kd_hpo.study.store.folder import State, StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.trial.parts import Prepared
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import LEARNED, record, result_of

NAN = float("nan")

# ---- statistics


@pytest.mark.parametrize(
    ("values", "expected"),
    [((), (NAN, NAN)), ((0.5,), (0.5, NAN)), ((0.5, 0.75), (0.625, 0.25 / 2**0.5)), ((1, 2, 3, 4), (2.5, (5 / 3) ** 0.5))],
)
def test_spread_is_that_of_a_sample(values: tuple[float, ...], expected: tuple[float, float]) -> None:
    assert spread(values) == pytest.approx(expected, nan_ok=True)


def test_ranks_are_the_mean_over_seeds() -> None:
    a, b, c = {0: 0.9, 1: 0.5, 2: 0.7}, {0: 0.8, 1: 0.6, 2: 0.7}, {0: 0.7, 1: 0.4, 2: 0.7}
    # seed 0: 1, 2, 3; seed 1: 2, 1, 3; seed 2: all three share rank 2
    assert mean_ranks([a, b, c], [0, 1, 2], Classification.goal) == pytest.approx([5 / 3, 5 / 3, 8 / 3])


def test_a_failed_trial_is_last_of_its_seed() -> None:
    a, b, never = {0: 0.9, 1: 0.5}, {0: 0.8}, dict[int, float]()
    # seed 0: 1, 2, 3; seed 1: 1, and the two that failed share 2.5
    ranks = mean_ranks([a, b, never], [0, 1], Classification.goal)
    assert ranks[:2] == pytest.approx([1, 2.25]) and math.isnan(ranks[2])


def test_paired_difference_and_its_p_value() -> None:
    """Differences .01, .02, .03: mean .02, deviation .01, t = .02 / (.01 / sqrt 3) = sqrt 12 at two degrees of freedom.

    There the two-sided p-value is 1 - t / sqrt(2 + t^2) = 1 - sqrt(12 / 14).
    """
    ours, others = {0: 0.51, 1: 0.62, 2: 0.73, 7: 0.1}, {0: 0.5, 1: 0.6, 2: 0.7, 8: 0.9}
    difference, p = paired(ours, others)
    assert difference == pytest.approx(0.02)
    assert p == pytest.approx(1 - (12 / 14) ** 0.5)
    assert paired(others, ours) == pytest.approx((-difference, p))


def test_two_seeds_have_a_p_value() -> None:
    """Differences 0 and .2: t = .1 / (.1414 / sqrt 2) = 1 at one degree of freedom, where p = 1 - (2 / pi) atan t = .5."""
    assert paired({0: 0.5, 1: 0.7}, {0: 0.5, 1: 0.5}) == pytest.approx((0.1, 0.5))


@pytest.mark.parametrize(
    ("ours", "others", "difference"),
    [
        ({0: 0.6}, {0: 0.5}, 0.1),
        ({0: 0.6, 1: 0.4}, {0: 0.5, 2: 0.9}, 0.1),
        ({0: 0.6, 1: 0.7, 2: 0.8}, {0: 0.5, 1: 0.6, 2: 0.7}, 0.1),  # all the same but for rounding
        ({0: 0.6, 1: 0.7}, {0: 0.6, 1: 0.7}, 0),
    ],
    ids=["one seed", "one seed of both", "no variance", "ties"],
)
def test_differences_that_have_no_p_value(ours: Mapping[int, float], others: Mapping[int, float], difference: float) -> None:
    assert paired(ours, others) == pytest.approx((difference, NAN), nan_ok=True)


@pytest.mark.parametrize(
    ("differences", "margin", "expected", "t"),
    [
        ((0.01, 0.02, 0.03), 0.005, "yes", 0.025 / (0.01 / 3**0.5)),
        ((0.01, 0.02, 0.03), 0.0, "yes", 0.02 / (0.01 / 3**0.5)),
        ((-0.03, -0.02, -0.01), 0.0, "no", -0.02 / (0.01 / 3**0.5)),
        ((-0.03, -0.02, -0.01), 0.005, "unknown", -0.015 / (0.01 / 3**0.5)),  # worse by .02, as far as is known
        ((-0.01, 0.0, 0.01), 0.005, "unknown", 0.005 / (0.01 / 3**0.5)),  # a tie, which says little
        ((-0.01, 0.0, 0.01), 0.02, "yes", 0.02 / (0.01 / 3**0.5)),
    ],
)
def test_not_worse_by_more_than_a_margin(differences: tuple[float, ...], margin: float, expected: str, t: float) -> None:
    """The deviation is .01. At two degrees of freedom, P(T > t) is (1 - t / sqrt(2 + t^2)) / 2."""
    ours, others = {seed: 0.5 + each for seed, each in enumerate(differences)}, dict.fromkeys(range(3), 0.5) | {9: 0.1}
    p = (1 - t / (2 + t**2) ** 0.5) / 2
    assert not_worse(ours, others, margin, Classification.goal) == (expected, pytest.approx(p))
    assert not_worse(others, ours, margin, Classification.loss) == (expected, pytest.approx(p))  # where less is better


@pytest.mark.parametrize("ours", [{}, {0: 0.9}, {0: 0.6, 1: 0.6}], ids=["none", "one seed", "no variance"])
def test_whether_it_is_worse_is_not_known_of_so_little(ours: dict[int, float]) -> None:
    found, p = not_worse(ours, {0: 0.5, 1: 0.5}, 0.005, Classification.goal)
    assert found == "unknown" and math.isnan(p)


def test_nothing_in_common_has_no_difference() -> None:
    assert paired({0: 0.6}, {1: 0.6}) == pytest.approx((NAN, NAN), nan_ok=True)


# ---- a comparison


def add(
    study: StudyConfig, method: str, seed: int, accuracies: list[float], *, state: State = "completed", **settings: Any
) -> None:
    """The test accuracy is .1 below that on val; a trial takes ten seconds and one more for each seed."""
    folder = StudyFolder.of(study)
    spec = TrialSpec(id=f"{method}-s{seed}", kind="compare", method=method, seed=seed, settings=settings)
    message = "it diverged" if state == "failed" else ""
    folder.write_status(TrialStatus(spec=spec, state=state, duration_s=10 + seed, message=message))
    records = [record(epoch, accuracy, ()) for epoch, accuracy in enumerate(accuracies, 1)]
    folder.write_records(spec.id, records)
    if state == "completed":
        result = result_of(records, digits_trial(weighting=NoPairs()))
        (folder.trial(spec.id) / "result.json").write_text(result.model_dump_json())
        folder.write_test_scores(spec.id, TestScores(last=accuracies[-1] - 0.1, best=max(accuracies) - 0.1))


def comparison_of(study: StudyConfig, prepared: Prepared) -> Comparison:
    return compared(study, StudyFolder.of(study), shared_scores(prepared), searches(study, prepared.plan.shape))


def study_of(tmp_path: Path, *methods: object, seeds: int = 3, **changes: object) -> StudyConfig:
    search = changes.pop("search", {"trials": 0})
    return digits_study(tmp_path, compare={"methods": methods, "seeds": seeds}, search=search, **changes)


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    """Test accuracies at seeds 0, 1, 2: ce .4 .5 .6, mine .5 .6 failed, learned .51 .62 .73; sp fails at all."""
    study = study_of(tmp_path, "ce", {"name": "mine", "base": "kd"}, "sp", LEARNED)
    for seed in range(3):
        add(study, "ce", seed, [0.8, 0.5 + seed / 10])
        add(study, LEARNED, seed, [0.4, 0.61 + 0.11 * seed])
        add(study, "sp", seed, [], state="failed")
    add(study, "mine", 0, [0.6])
    add(study, "mine", 1, [0.7])
    add(study, "mine", 2, [0.9], state="failed")
    return study


@pytest.fixture
def comparison(study: StudyConfig, prepared: Prepared) -> Comparison:
    return comparison_of(study, prepared)


def row(frame: pd.DataFrame, method: str) -> dict[str, Any]:
    (found,) = frame[frame["method"] == method].to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_frame_has_a_row_a_method_in_their_order(comparison: Comparison) -> None:
    frame = comparison.frame()
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame["method"]) == ["ce", "mine", "sp", LEARNED]
    ce, mine = row(frame, "ce"), row(frame, "mine")
    assert (ce["title"], ce["seeds"], ce["failed"]) == ("student alone", 3, 0)
    assert (ce["test"], ce["test_sd"]) == pytest.approx((0.5, 0.1))  # after the last epoch, not the best one
    assert (ce["test_best"], ce["test_best_sd"]) == pytest.approx((0.7, 0))
    assert (ce["val"], ce["val_sd"]) == pytest.approx((0.6, 0.1))
    assert ce["seconds"] == pytest.approx(11)
    assert ce["steps"] == 4 * (240 // 32)
    assert (mine["title"], mine["seeds"], mine["failed"]) == ("mine", 2, 1)
    assert (mine["test"], mine["test_sd"]) == pytest.approx((0.55, 0.1 / 2**0.5))


def test_differences_are_to_the_best_control_on_the_same_seeds(comparison: Comparison) -> None:
    """mine, at .55, is the best control; learned is better, and none. At seeds 0 and 1 they differ by .01 and .02."""
    assert comparison.control is not None and comparison.control.name == "mine"
    frame = comparison.frame()
    learned = row(frame, LEARNED)
    assert learned["difference"] == pytest.approx(0.015)
    assert learned["p_value"] == pytest.approx(1 - 2 / math.pi * math.atan(3))  # t = .015 / (.00707 / sqrt 2) = 3
    # of .01 and .02, .005 more is .02 on average: t = .02 / (.00707 / sqrt 2) = 4, and one side of p is 1 / 2 - atan(4) / pi
    assert learned["not_worse"] == "unknown" and learned["p_not_worse"] == pytest.approx(0.5 - math.atan(4) / math.pi)
    assert math.isnan(row(frame, "mine")["not_worse"])  # it is the best control
    assert row(frame, "ce")["difference"] == pytest.approx(-0.1) and math.isnan(row(frame, "ce")["p_value"])
    assert math.isnan(row(frame, "mine")["difference"])


def test_ranks_of_the_frame(comparison: Comparison) -> None:
    """Seeds 0 and 1: learned, mine, ce, sp; seed 2: learned, ce, and the two that failed."""
    ranks = comparison.frame().set_index("method")["rank"]
    assert [ranks["ce"], ranks["mine"], ranks[LEARNED]] == pytest.approx([8 / 3, (2 + 2 + 3.5) / 3, 1])


def test_method_that_failed_is_there_and_says_why(comparison: Comparison) -> None:
    failed = row(comparison.frame(), "sp")
    assert (failed["seeds"], failed["failed"]) == (0, 3)
    assert all(math.isnan(failed[name]) for name in ("test", "test_best", "val", "rank", "seconds", "difference", "p_value"))
    assert [method.failures for method in comparison.methods] == [(), ("it diverged",), ("it diverged",) * 3, ()]


def test_what_was_tuned_is_told_for_each_method(tmp_path: Path, prepared: Prepared) -> None:
    space = {"weighting.step": {"kind": "uniform", "low": 0.01, "high": 0.3}}
    search = {"trials": 5, "method": LEARNED, "space": space}
    study = study_of(tmp_path, "kd", "vid", LEARNED, search=search)
    assert list(comparison_of(study, prepared).frame()["tuning"]) == [
        f"the settings that 5 trials of {LEARNED} found",
        f"the settings that 5 trials of {LEARNED} found",
        "5 trials of its own over 1 setting",
    ]
    tuned = study.replace(compare={"methods": ["kd", "vid", LEARNED], "tune": 2})
    assert list(comparison_of(tuned, prepared).frame()["tuning"]) == [
        "none, it has nothing to search",
        "2 trials of its own over 1 setting",  # its strength
        "5 trials of its own over 1 setting",
    ]


def test_unequal_budgets_are_told(tmp_path: Path, prepared: Prepared) -> None:
    longer = {"name": "longer", "base": "kd", "set": {"training.epochs": 8}}
    study = study_of(tmp_path, "kd", longer, seeds=1)
    comparison = comparison_of(study, prepared)
    assert list(comparison.frame()["steps"]) == [28, 56]


def test_assistant_is_told_beside_the_teacher(tmp_path: Path, prepared: Prepared) -> None:
    study = study_of(tmp_path, "kd", "takd", "ifm", seeds=1)
    add(study, "takd", 0, [0.6])  # whose teacher has .9 on val
    comparison = comparison_of(study, prepared)
    told = {method["method"]: method.get("assistant_val", "none") for method in comparison.document()["methods"]}
    assert told == {"kd": "none", "takd": 0.9, "ifm": None}


def test_controls_are_neither_searched_nor_learned(tmp_path: Path, prepared: Prepared) -> None:
    """By what their trials do, whatever they are called and start from."""
    fixed = {"weighting": {"kind": "fixed", "matrix": [[1, 0], [0, 0], [0, 0]]}}
    methods = ["ce", "kd", {"name": "best_pair", "base": LEARNED, "set": fixed}, {"name": "other_step", "base": LEARNED}]
    search = {"trials": 1, "method": "kd", "space": {"kd.weight": {"kind": "uniform", "low": 1, "high": 2}}}
    study = study_of(tmp_path, *methods, seeds=1, search=search)
    for i, method in enumerate(("ce", "best_pair", "kd", "other_step")):
        add(study, method, 0, [0.5 + i / 10], **({"kd.weight": 1.5} if method == "kd" else {}))
    control = comparison_of(study, prepared).control
    assert control is not None and control.name == "best_pair"
    unsearched = comparison_of(study.replace(search={**search, "trials": 0}), prepared).control
    assert unsearched is not None and unsearched.name == "kd"


def test_ties_for_the_best_control_go_to_the_first(tmp_path: Path, prepared: Prepared) -> None:
    study = study_of(tmp_path, "kd", "ce", LEARNED, seeds=1)
    for method in ("kd", "ce", LEARNED):
        add(study, method, 0, [0.5])
    comparison = comparison_of(study, prepared)
    assert comparison.control is not None and comparison.control.name == "kd"
    frame = comparison.frame()
    assert list(frame["rank"]) == [2, 2, 2]
    assert row(frame, "ce")["difference"] == 0 and frame["p_value"].isna().all()


def test_comparison_without_a_control_or_without_methods(tmp_path: Path, prepared: Prepared) -> None:
    study = study_of(tmp_path, LEARNED, seeds=1)
    add(study, LEARNED, 0, [0.5])
    comparison = comparison_of(study, prepared)
    assert comparison.control is None
    assert math.isnan(row(comparison.frame(), LEARNED)["difference"])
    empty = comparison_of(study_of(tmp_path), prepared)
    assert empty.frame().empty and empty.document()


def test_trials_beyond_the_methods_and_seeds_do_not_count(study: StudyConfig, prepared: Prepared) -> None:
    fewer = study.replace(compare={"methods": ["ce"], "seeds": 2})
    frame = comparison_of(fewer, prepared).frame()
    assert list(frame["method"]) == ["ce"] and list(frame["test"]) == pytest.approx([0.45])


# ---- files


def test_files_hold_the_same_numbers(study: StudyConfig, comparison: Comparison) -> None:
    folder = StudyFolder.of(study)
    comparison.write(folder)
    read = pd.read_csv(folder.comparison("csv"))
    pd.testing.assert_frame_equal(read, comparison.frame(), check_exact=False)
    data = json.loads(folder.comparison("json").read_text(), parse_constant=pytest.fail)
    assert data["best_control"] == "mine" and list(data["columns"]) == list(COLUMNS) and data["seeds"] == [0, 1, 2]
    assert data["columns"]["test"] == "accuracy on test after the last epoch, mean over seeds"
    ce, mine, sp, learned = data["methods"]
    assert sp["test"] is None and sp["failures"] == ["it diverged"] * 3 and sp["by_seed"] == {}
    assert ce["by_seed"]["2"] == pytest.approx({"test": 0.6, "test_best": 0.7, "val": 0.7, "seconds": 12})
    assert list(mine["by_seed"]) == ["0", "1"]
    assert learned["p_value"] == pytest.approx(row(comparison.frame(), LEARNED)["p_value"])
