"""The findings of a study, read from its folder: what `show` prints and `report` writes, whether it is finished or not."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.results.comparison import Comparison, read_comparison, spread, with_spread
from kd_hpo.study.results.significance import Significance, verdicts
from kd_hpo.study.results.standing import Learned, Standing, learned_weights, standing
from kd_hpo.study.store.folder import StudyFolder

ENOUGH_SEEDS = 5
"""Below, the report proposes more: with three, a difference has to be four deviations for p below .05."""


@dataclass(frozen=True)
class Findings:
    study: StudyConfig
    folder: StudyFolder
    standing: Standing
    comparison: Comparison | None
    learned: Learned | None

    @property
    def finished(self) -> bool:
        return self.standing.state == "finished"

    @property
    def verdicts(self) -> list[Significance]:
        """Of the method that has learned the matrix, against the controls of the comparison."""
        if self.comparison is None or self.learned is None:
            return []
        compared = [method.name for method in self.comparison.methods if method.by_seed]
        return verdicts(self.comparison, self.learned.method) if self.learned.method in compared else []

    def document(self) -> dict[str, Any]:
        """As plain data, for --json."""
        learned = self.learned
        return {
            "study": self.study.name,
            "folder": self.folder.root,
            "state": self.standing.state,
            "trials": {"ended": self.standing.ended, "planned": self.standing.planned, "best_val": self.standing.best},
            "search": self.standing.search,
            "compare": self.standing.compare,
            "comparison": self.comparison and self.comparison.document(),
            "learned": learned
            and {
                "method": learned.method,
                "trials": learned.trials,
                "teacher_layers": learned.teacher,
                "student_layers": learned.student,
                "weights": learned.matrix,
            },
        }


def read_findings(folder: StudyFolder) -> Findings:
    """Raises StudyError where there is no study, or where a file of it is broken."""
    study = folder.read_settings()
    return Findings(study, folder, standing(study, folder), read_comparison(study, folder), learned_weights(study, folder))


# ---- in words

_SAID = {
    "better": "It is better than {0}.",
    "better, but not after correction": "It is better than {0}, but the difference may be chance, corrected for {1} tests.",
    "a tie": "It ties with {0}: a difference may be chance.",
    "worse, but not after correction": "It is worse than {0}, but the difference may be chance, corrected for {1} tests.",
    "worse": "It is worse than {0}.",
    "not tested": "The difference to {0} cannot be tested on so few seeds.",
}
"""Of what Significance.words says."""


def headline(findings: Findings) -> list[str]:
    """What came out, in two or three sentences."""
    learned, comparison = findings.learned, findings.comparison
    if comparison is None or learned is None or not findings.verdicts:
        return [_without_verdicts(findings)]
    (method,) = (each for each in comparison.methods if each.name == learned.method)
    mean = with_spread(*spread(method.all("test").values()))
    seeds = f"{len(method.by_seed)} seeds" if len(method.by_seed) > 1 else "one seed"
    return [f"{_capital(method.title)} reaches {mean} on test ({seeds}).", *_against_controls(findings.verdicts), *_gap(findings)]


def _without_verdicts(findings: Findings) -> str:
    if not findings.finished:
        best = (
            f"; the best accuracy on val so far is {findings.standing.best:.4f}"
            if findings.standing.best == findings.standing.best
            else ""
        )
        return f"The study is {findings.standing.words()}{best}."
    return "No method of this study learns pair weights and has controls to be compared with; the table says what there is."


def _against_controls(found: list[Significance]) -> list[str]:
    """It is better than student alone and KD. It ties with KD + uniform lambda: a difference may be chance."""
    by_words: dict[str, list[str]] = {}
    for verdict in found:
        by_words.setdefault(verdict.words, []).append(verdict.control.title)
    return [_SAID[words].format(listed(names), len(found)) for words in _SAID if (names := by_words.get(words))]


def _gap(findings: Findings) -> list[str]:
    """How much of what the teacher is better than the student alone was closed, where lambda is better than nothing."""
    assert findings.comparison is not None and findings.learned is not None
    by_name = {method.name: spread(method.all("test").values())[0] for method in findings.comparison.methods}
    if not any(verdict.control.name == "ce" and verdict.sign == "better" for verdict in findings.verdicts):
        return []
    alone, taught, teacher = by_name["ce"], by_name[findings.learned.method], findings.comparison.teacher["test"]
    if teacher <= alone:
        return []
    share = (taught - alone) / (teacher - alone)
    return [f"The student alone reaches {alone:.4f}, the teacher {teacher:.4f}: {share:.2f} of that gap is closed."]


def strongest_pairs(learned: Learned, most: int = 5) -> list[tuple[str, str, str]]:
    """Teacher layer, student layer and what the pair weighs, the heaviest first; without those of less than an even share."""
    even = 1 / (len(learned.teacher) * len(learned.student))
    cells = [
        (weight, learned.low[t][s], learned.high[t][s], learned.teacher_names[t], learned.student_names[s])
        for t, row in enumerate(learned.matrix)
        for s, weight in enumerate(row)
    ]
    heavy = sorted((cell for cell in cells if cell[0] > even), key=lambda cell: -cell[0])[:most]
    several = len(learned.trials) > 1
    return [
        (teacher, student, f"{weight:.3f}" + (f" ({low:.3f} to {high:.3f} over the seeds)" if several else ""))
        for weight, low, high, teacher, student in heavy
    ]


def matrix_in_words(learned: Learned) -> str:
    """How concentrated the matrix is."""
    weights = sorted((weight for row in learned.matrix for weight in row), reverse=True)
    total = sum(weights)
    half = next(n for n in range(1, len(weights) + 1) if sum(weights[:n]) >= 0.5 * total)
    none = sum(weight < 0.001 for weight in weights)
    kept = f"{none} weigh{'s' * (none == 1)} nothing" if none else "each keeps some weight"
    return f"Of {len(weights)} pairs, {half} hold{'s' * (half == 1)} half of the weight; {kept}."


def missing(findings: Findings) -> list[str]:
    """What a finished study would have, and this one has not."""
    found = []
    for name, counts in (("search", findings.standing.search), ("comparison", findings.standing.compare)):
        left = {method: count.planned - count.ended for method, count in counts.items() if count.ended < count.planned}
        if left:
            each = listed([f"{number} of {method}" for method, number in left.items()])
            found.append(
                f"The {name} has {sum(left.values())} of {sum(c.planned for c in counts.values())} trials to go: {each}."
            )
    if findings.comparison is None:
        found.append("The test split has not been opened: there is no comparison with the controls yet.")
    elif not findings.finished:
        found.append("More methods or seeds were asked for since the comparison below was written.")
    if findings.learned is None:
        found.append("No trial that learns lambda has been completed, so there is no matrix.")
    elif not findings.learned.compared:
        found.append("The matrix is that of one trial of the search; the comparison repeats it over seeds.")
    return found


def next_commands(findings: Findings) -> list[tuple[str, str]]:
    """A command and what it does."""
    name, folder = findings.study.name, findings.folder
    option = "" if findings.study.runs == Path("runs").absolute() else f" --runs {shlex.quote(str(findings.study.runs))}"
    if not findings.finished:
        doing = "look at it again while it runs" if findings.standing.state == "running" else "go on where it stands"
        return [(f"kd-hpo {'show' if findings.standing.state == 'running' else 'resume'} {name}{option}", doing)]
    commands = [(f"kd-hpo ui{option}", "every trial in MLflow, with its matrix over the epochs")]
    if findings.learned:
        commands.append((f"kd-hpo export {name} --top 3{option}", "the three best matrices as JSON"))
        commands.append((f"kd-hpo apply {shlex.quote(str(folder.export))}{option}", "train a student with the best matrix"))
    if findings.study.compare.seeds < ENOUGH_SEEDS:
        more = f"kd-hpo run {shlex.quote(str(folder.settings))} --set compare.seeds={ENOUGH_SEEDS}"
        commands.append((more, "more seeds, to tell small differences from chance; what has ended is not run again"))
    return commands


def listed(names: list[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
