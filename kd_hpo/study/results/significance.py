"""What the numbers of a study allow one to say: which method is better than which, and which outer settings mattered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scipy.stats import spearmanr

from kd_hpo.config.task import Goal
from kd_hpo.study.results.comparison import LEVEL, Comparison, MethodScores, paired
from kd_hpo.study.results.standing import settings_of

FEWEST_TRIALS = 5
"""For a trend to be told from chance: of four trials, no order is rarer than 1 in 12."""


@dataclass(frozen=True)
class Significance:
    """The test of one method against another, over the seeds that both have."""

    control: MethodScores
    difference: float
    """The mean on `test` less the other's; nan where they share no seed."""
    p: float
    """Of the paired t-test, two-sided; nan where it cannot be done."""
    corrected: float
    """p after Holm's correction for the number of controls that the method is tested against."""
    goal: Goal
    """What is compared, and which way of it is better."""

    @property
    def sign(self) -> Literal["better", "worse", "tie", "untested"]:
        if self.p != self.p:
            return "untested"
        return "tie" if self.p >= LEVEL else "better" if self.goal.worth(self.difference) > 0 else "worse"

    @property
    def survives(self) -> bool:
        """Whether the difference is told from chance after correction too."""
        return self.corrected < LEVEL


@dataclass(frozen=True)
class Trend:
    """The trend of the task's metric with one outer setting, over the trials of a search."""

    setting: str
    trials: int
    correlation: float
    """Spearman's, in [-1, 1]."""
    p: float
    corrected: float = float("nan")
    """p after Holm's correction for the number of trends that are told together; nan before."""


def against_controls(comparison: Comparison, name: str) -> list[Significance]:
    """Tests the method against every control that has scores, in the order of the comparison."""
    (method,) = (each for each in comparison.methods if each.name == name)
    controls = [each for each in comparison.methods if each.is_control and each.by_seed and each is not method]
    tests = [paired(method.all("test"), control.all("test")) for control in controls]
    corrected = holm([p for _, p in tests])
    found = zip(controls, tests, corrected, strict=True)
    return [Significance(control, difference, p, q, comparison.goal) for control, (difference, p), q in found]


def holm(values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm 1979); nan stays, and does not count."""
    order = sorted((i for i, p in enumerate(values) if p == p), key=lambda i: values[i])
    corrected, highest = [float("nan")] * len(values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * values[i]))
        corrected[i] = highest
    return corrected


def trends(points: Sequence[Mapping[str, object]]) -> list[Trend]:
    """Finds the trend with each numeric setting that has varied over FEWEST_TRIALS or more, the strongest first.

    points  as `searched_points` gives them; those that never reached a score are left out
    A trial that the scheduler has stopped ranks as it stood then: it was stopped for being behind. Corrected for the number of
    settings of this search.
    """
    reached = [point for point in points if point["score"] is not None]
    found = []
    for setting in settings_of(reached):
        pairs: list[tuple[Any, Any]] = [(point[setting], point["score"]) for point in reached if setting in point]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in pairs)
        values, scores = zip(*pairs, strict=True) if pairs else ((), ())
        if numeric and len(pairs) >= FEWEST_TRIALS and len(set(values)) > 1 and len(set(scores)) > 1:
            test = spearmanr(values, scores)
            found.append(Trend(setting, len(pairs), float(test.statistic), float(test.pvalue)))
    return sorted(_corrected(found), key=lambda trend: -abs(trend.correlation))


def trends_of_searches(searches: Mapping[str, Sequence[Mapping[str, object]]]) -> dict[str, list[Trend]]:
    """Finds the trends of each search, by its method, corrected for the number of settings of all.

    A report tells them together.
    """
    found = {method: trends(points) for method, points in searches.items()}
    corrected = iter(_corrected([trend for each in found.values() for trend in each]))
    return {method: [next(corrected) for _ in each] for method, each in found.items()}


def _corrected(found: Sequence[Trend]) -> list[Trend]:
    corrected = holm([trend.p for trend in found])
    return [replace(trend, corrected=value) for trend, value in zip(found, corrected, strict=True)]
