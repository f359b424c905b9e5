"""Methods side by side over independent repeats of a study: what the search, the teacher and the split have changed, too."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import mean
from typing import Any

import pandas as pd

from kd_hpo.config.study import StudyConfig
from kd_hpo.files import write_atomically
from kd_hpo.study.design.repeats import repeats_of
from kd_hpo.study.results.comparison import NAN, Comparison, MethodScores, not_worse, paired, read_comparison, spread
from kd_hpo.study.store.folder import StudyFolder

REPEATS_COLUMNS = {
    "method": "its name in the study",
    "title": "how a person reads it",
    "repeats": "in which it has scores",
    "seeds": "trials completed, over all repeats",
    "test": "{metric} on test after the last epoch, the mean of the repeats' means",
    "between": "sample standard deviation of the repeats' means",
    "within": "standard deviation over the seeds of a repeat, pooled over the repeats",
    "difference": "test less that of the best control over all repeats, the mean of the repeats' means on common seeds",
    "p_value": "of a paired t-test over the repeats' means, two-sided, not corrected for the number of methods",
    "not_worse": "whether it is worse than the best control by no more than the margin: yes, no or unknown, over the same means",
    "p_not_worse": "of that test, one-sided: yes where it is below .05",
}
"""The columns of Repeated.frame, in order; nan for what does not exist."""


@dataclass(frozen=True)
class Repeated:
    """The comparisons of a study's repeats, the first one's first.

    Tests are over the repeats, and not over their seeds: the seeds of a repeat share what its search has found, its teacher and
    its split, and to count them as independent calls chance a difference (pseudoreplication, Hurlbert 1984; of comparisons like
    these, Bouthillier et al. 2021). Each pair (repeat, seed) gives a difference, each repeat the mean of its own, and those means
    are tested by a t-test. That is exact for a nested design with as many seeds in each repeat, and finds little where repeats
    are few: at two, one degree of freedom is left.
    """

    comparisons: tuple[Comparison, ...]

    @property
    def control(self) -> str | None:
        """The best control, by the mean of its repeats' means on `test`; only one that has scores in every repeat."""
        goal, controls = self.comparisons[0].goal, dict[str, float]()
        for name in (method.name for method in self.comparisons[0].methods if method.is_control):
            means = repeat_means(self._of(name))
            if len(means) == len(self.comparisons):
                controls[name] = goal.worth(mean(means.values()))
        return max(controls, key=lambda name: controls[name], default=None)

    def frame(self) -> pd.DataFrame:
        """Gives the repeats as a data frame of a row a method; REPEATS_COLUMNS says what each column is."""
        first, control = self.comparisons[0], self.control
        rows = []
        for method in first.methods:
            scores = self._of(method.name)
            means = repeat_means(scores)
            row: dict[str, object] = {"method": method.name, "title": method.title, "repeats": len(means)}
            row["seeds"] = sum(map(len, scores.values()))
            row["test"], row["between"] = spread(means.values())
            row["within"] = pooled(scores)
            row |= {"difference": NAN, "p_value": NAN, "not_worse": NAN, "p_not_worse": NAN}
            if control is not None and control != method.name:
                ours, others = on_common_seeds(scores, self._of(control))
                row["difference"], row["p_value"] = paired(ours, others)
                row["not_worse"], row["p_not_worse"] = not_worse(ours, others, first.margin, first.goal)
            rows.append(row)
        return pd.DataFrame(rows, columns=list(REPEATS_COLUMNS))

    def document(self) -> dict[str, Any]:
        """Gives the repeats as JSON: the rows of the frame; null for what does not exist."""
        first, rows = self.comparisons[0], self.frame().to_dict("records")
        return {
            "studies": [comparison.study for comparison in self.comparisons],
            "best_control": self.control,
            "margin": first.margin,
            "columns": {name: words.format(metric=first.goal.name) for name, words in REPEATS_COLUMNS.items()},
            "methods": [{name: None if value != value else value for name, value in row.items()} for row in rows],
        }

    def write(self, folder: StudyFolder) -> None:
        write_atomically(folder.root / "repeats.csv", self.frame().to_csv(index=False))
        write_atomically(folder.root / "repeats.json", json.dumps(self.document(), indent=1))

    def _of(self, name: str) -> dict[int, dict[int, float]]:
        """What the method has reached on test, by repeat and seed."""
        found: dict[int, MethodScores | None] = {
            number: next((method for method in comparison.methods if method.name == name), None)
            for number, comparison in enumerate(self.comparisons)
        }
        return {number: method.all("test") for number, method in found.items() if method and method.by_seed}


def read_repeated(study: StudyConfig) -> Repeated | None:
    """Reads the repeats of a study that asks for several, once each has its comparison; None before, and of any other study."""
    studies = repeats_of(study)
    found = [read_comparison(each, StudyFolder.of(each)) for each in studies] if len(studies) > 1 else []
    there = tuple(comparison for comparison in found if comparison is not None)
    return Repeated(there) if found and len(there) == len(found) else None


def repeat_means(scores: Mapping[int, Mapping[int, float]]) -> dict[int, float]:
    return {repeat: mean(by_seed.values()) for repeat, by_seed in scores.items()}


def pooled(scores: Mapping[int, Mapping[int, float]]) -> float:
    """Pools the deviations from the mean of each repeat to one standard deviation; nan where no repeat has two seeds."""
    means, degrees = repeat_means(scores), sum(len(by_seed) - 1 for by_seed in scores.values())
    squares = sum((score - means[repeat]) ** 2 for repeat, by_seed in scores.items() for score in by_seed.values())
    return sqrt(squares / degrees) if degrees else NAN


def on_common_seeds(
    ours: Mapping[int, Mapping[int, float]], others: Mapping[int, Mapping[int, float]]
) -> tuple[dict[int, float], dict[int, float]]:
    """Gives the means of two methods in each repeat, over the seeds that both have there."""
    common = {repeat: ours[repeat].keys() & others[repeat].keys() for repeat in ours.keys() & others.keys()}
    shared = sorted(repeat for repeat, seeds in common.items() if seeds)
    first, second = ({r: mean(of[r][seed] for seed in sorted(common[r])) for r in shared} for of in (ours, others))
    return first, second
