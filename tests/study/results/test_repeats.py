"""Methods over independent repeats, against values worked out by hand."""

import json
import math
from pathlib import Path

import pytest

from kd_hpo.config.task import Classification
from kd_hpo.study.design.repeats import repeats_of
from kd_hpo.study.results.comparison import Comparison, MethodScores, Scores
from kd_hpo.study.results.repeats import REPEATS_COLUMNS, Repeated, on_common_seeds, pooled, read_repeated
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study

KD = {0: [0.50, 0.52], 1: [0.60, 0.62], 2: [0.70, 0.72]}  # means .51, .61, .71
OURS = {0: [0.52, 0.54], 1: [0.63, 0.65], 2: [0.74, 0.76]}  # .02, .03, .04 better
LESS = {0: [0.40], 1: [], 2: [0.5, 0.6]}


def method(name: str, tests: list[float], first: int, *, is_control: bool = True) -> MethodScores:
    by_seed = {first + number: Scores(test, test, test, 1.0) for number, test in enumerate(tests)}
    return MethodScores(name, name.upper(), by_seed, (), is_control, 10, False, math.nan, "none")


@pytest.fixture
def repeated() -> Repeated:
    def of(number: int) -> Comparison:
        first = 10_000 * number
        methods = (
            method("kd", KD[number], first),
            method("less", LESS[number], first),
            method("ours", OURS[number], first, is_control=False),
        )
        seeds = (first, first + 1)
        return Comparison(f"s{number}", methods, seeds, 4, {"val": 0.9, "test": 0.9}, {}, Classification.goal, 0.005)

    return Repeated(tuple(of(number) for number in range(3)))


def test_means_and_both_spreads(repeated: Repeated) -> None:
    kd, less, ours = repeated.frame().to_dict("records")
    assert list(kd) == list(REPEATS_COLUMNS)
    assert (kd["repeats"], kd["seeds"], less["repeats"], less["seeds"]) == (3, 6, 2, 3)
    assert (kd["test"], kd["between"]) == pytest.approx((0.61, 0.1))
    assert kd["within"] == pytest.approx((2 * 0.01**2) ** 0.5)  # two deviations of .01 and one degree of freedom a repeat
    assert (less["test"], less["between"]) == pytest.approx((0.475, 0.15 / 2**0.5))  # of .4 and .55
    assert less["within"] == pytest.approx((2 * 0.05**2) ** 0.5)  # one seed says nothing of it
    assert ours["test"] == pytest.approx(0.64)


def test_the_test_is_over_repeats_and_not_over_their_seeds(repeated: Repeated) -> None:
    """Differences .02, .03, .04: t = .03 / (.01 / sqrt 3) = sqrt 27 at two degrees of freedom, where p = 1 - t / sqrt(2 + t^2).
    Six seeds would have t = .03 / (.00894 / sqrt 6) = 8.2 at five, p .0004. With the margin t is .035 / (.01 / sqrt 3)."""
    kd, less, ours = repeated.frame().to_dict("records")
    assert repeated.control == "kd" and math.isnan(kd["difference"]) and math.isnan(kd["not_worse"])
    assert ours["difference"] == pytest.approx(0.03)
    assert ours["p_value"] == pytest.approx(1 - (27 / 29) ** 0.5)
    t = 0.035 / (0.01 / 3**0.5)
    assert (ours["not_worse"], ours["p_not_worse"]) == ("yes", pytest.approx((1 - t / (2 + t**2) ** 0.5) / 2))
    # .4 less .5, the one common seed, and .55 less .71: -.1 and -.16; t = -.13 / .03 at one degree of freedom
    assert less["difference"] == pytest.approx(-0.13)
    assert less["p_value"] == pytest.approx(1 - 2 / math.pi * math.atan(0.13 / 0.03))


def test_equal_methods_whose_repeats_move_are_not_told_apart() -> None:
    """Ten seeds that all say .01, once up and once down, would be p < .001 in each repeat alone."""
    ours = {0: {seed: 0.51 + seed / 1e4 for seed in range(10)}, 1: {seed: 0.49 + seed / 1e4 for seed in range(10)}}
    first, second = on_common_seeds(ours, {repeat: dict.fromkeys(range(12), 0.5) for repeat in (0, 1, 2)})
    assert [first[repeat] - second[repeat] for repeat in (0, 1)] == pytest.approx([0.01045, -0.00955])
    assert pooled(ours) == pytest.approx((2 * 82.5e-8 / 18) ** 0.5)  # 0 to 9 have a sum of squares of 82.5
    assert math.isnan(pooled({0: {1: 0.5}}))


def test_what_is_written_has_null_for_what_does_not_exist(repeated: Repeated, tmp_path: Path) -> None:
    repeated.write(StudyFolder(tmp_path))
    document = json.loads((tmp_path / "repeats.json").read_text(), parse_constant=pytest.fail)
    assert document["studies"] == ["s0", "s1", "s2"] and document["best_control"] == "kd"
    assert [row["p_value"] is None for row in document["methods"]] == [True, False, False]
    assert (tmp_path / "repeats.csv").read_text().startswith(",".join(REPEATS_COLUMNS))


def test_repeats_are_read_once_each_has_its_comparison(repeated: Repeated, tmp_path: Path) -> None:
    study = digits_study(tmp_path, search={"trials": 0, "repeats": 3})
    for comparison, each in zip(repeated.comparisons, repeats_of(study), strict=True):
        assert read_repeated(study) is None
        of_study = Comparison(each.name, (), comparison.seeds, 4, {"val": 0.9, "test": 0.9}, {}, Classification.goal)
        of_study.write(StudyFolder.of(each))
    found = read_repeated(study)
    assert found and [comparison.study for comparison in found.comparisons] == ["small", "small-r2", "small-r3"]
    assert read_repeated(study.replace(search={"repeats": 1})) is None
