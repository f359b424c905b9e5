"""The findings of a study in sentences, for a terminal and for the report."""

import shlex
from pathlib import Path

from kd_hpo.config.task import Goal
from kd_hpo.study.report.words import capital, listed, with_spread
from kd_hpo.study.results.arms import Answer
from kd_hpo.study.results.comparison import spread
from kd_hpo.study.results.findings import Findings
from kd_hpo.study.results.pairs import FEW_UPDATES, from_uniform, strongest_pairs
from kd_hpo.study.results.significance import Significance, Trend
from kd_hpo.study.results.standing import Learned, Standing
from kd_hpo.trial.result import KNOWN_FROM

ENOUGH_SEEDS = 5
"""Below, the report proposes more: with three, a difference has to be four deviations for p below .05."""
_SAID = {
    "better": "It is better than {0}.",
    "better, but not after correction": "It is better than {0}, but the difference may be chance, corrected for {1} tests.",
    "a tie": "It ties with {0}: a difference may be chance.",
    "worse, but not after correction": "It is worse than {0}, but the difference may be chance, corrected for {1} tests.",
    "worse": "It is worse than {0}.",
    "not tested": "The difference to {0} cannot be tested on so few seeds.",
}
"""By what `of_test` says."""


def progress_of(standing: Standing) -> str:
    """Words how far a study has come: finished; unfinished, 3 of 20 trials."""
    return standing.state if standing.state == "finished" else f"{standing.state}, {standing.ended} of {standing.planned} trials"


def whose(learned: Learned) -> str:
    """Words what the matrix is the mean of: hetero, mean of 5 seeds."""
    if not learned.compared:
        return f"{learned.method}, the best trial of the search so far, {learned.trials[0]}"
    return f"{learned.method}, mean of {len(learned.trials)} seeds" if len(learned.trials) > 1 else f"{learned.method}, one seed"


def what_it_came_to(found: Answer, goal: Goal) -> list[str]:
    """Says which arm a search has come to, and how far learned lambda and the best control are apart: what there was to find."""
    race = f"in a race over {found.seeds} seed{'s' * (found.seeds > 1)}" if found.seeds else "by the best trial of the search"
    said = [f"Of the arms of the search, {found.arm} is the answer ({found.title}), {race}."]
    if not found.learns:
        said.append("It is a control: what is exported and applied is that, and no lambda was learned for it.")
    if found.learning and found.control:
        ahead, error = goal.worth(found.ahead), f" ± {found.error:.4f}" if found.error == found.error else ""
        side = "ahead of" if ahead >= 0 else "behind"
        known = found.error == found.error and abs(ahead) > 2 * found.error
        said.append(
            f"There the best learned one, {found.learning}, is {abs(ahead):.4f}{error} {side} the best control, {found.control}, "
            f"in {goal.name} on val{'' if known else ': which of the two it is hardly matters here, as far as this tells'}."
        )
    return said


def how_it_moved(learned: Learned) -> str:
    """Says how often lambda was updated, and how far from equal weights it stands; that it is little, where it is."""
    far = f"{from_uniform(learned.matrix):.2f} from equal weights (0), of {1 - 1 / _cells(learned):.2f} for a single pair"
    if learned.updates is None:
        return f"Lambda {'was held, and ' * (learned.answer is not None and not learned.answer.learns)}stands {far}."
    if learned.updates == 0:
        return "Lambda was never updated: this is what it started from."
    few = f"; fewer than {FEW_UPDATES} updates say little" if learned.updates < FEW_UPDATES else ""
    return f"Lambda was updated {learned.updates} times a trial, and stands {far}{few}."


def how_well_known(learned: Learned) -> str:
    """Says which of the weights are more than chance; empty where lambda did not move on evidence."""
    if not learned.t_values:
        return ""
    cells = _cells(learned)
    if not any(map(any, learned.t_values)):
        return f"Of none of the {cells} pairs is anything known: there were too few hypergradients, or too much alike."
    verb = "is" if learned.known == 1 else "are"
    return (
        f"Of the {cells} pairs {learned.known} {verb} known to help more (+) or less (-) than the middle pair, at |t| > "
        f"{KNOWN_FROM:g}; by chance alone about {0.05 * cells:.1f} would be."
    )


def _cells(learned: Learned) -> int:
    return len(learned.teacher) * len(learned.student)


def of_test(test: Significance) -> str:
    """Words how a method does beside a control: better; better, but not after correction; a tie; not tested; and for worse."""
    if test.sign in ("tie", "untested"):
        return {"tie": "a tie", "untested": "not tested"}[test.sign]
    return test.sign if test.survives else f"{test.sign}, but not after correction"


def of_trend(trend: Trend, goal: Goal) -> str:
    """Words how the metric went with a setting."""
    direction = "rises" if trend.correlation > 0 else "falls"
    return f"{goal.name} {direction} with {trend.setting} (rank correlation {trend.correlation:+.2f}, {trend.trials} trials)"


def headline(findings: Findings) -> list[str]:
    """Says what came out of a study, in two or three sentences."""
    learned, comparison = findings.learned, findings.comparison
    if comparison is None or learned is None or not findings.tests:
        return [_without_tests(findings)]
    (method,) = (each for each in comparison.methods if each.name == learned.method)
    mean = with_spread(*spread(method.all("test").values()))
    seeds = f"{len(method.by_seed)} seeds" if len(method.by_seed) > 1 else "one seed"
    reached = [f"{capital(method.title)} reaches {mean} on test ({seeds}).", *_against_controls(findings.tests), *_gap(findings)]
    return [*reached, *(what_it_came_to(learned.answer, comparison.goal) if learned.answer else [])]


def _without_tests(findings: Findings) -> str:
    if not findings.finished:
        best = (
            f"; the best {findings.study.task.goal.name} on val so far is {findings.standing.best:.4f}"
            if findings.standing.best == findings.standing.best
            else ""
        )
        return f"The study is {progress_of(findings.standing)}{best}."
    return "No method of this study learns pair weights and has controls to be compared with; the table says what there is."


def _against_controls(found: list[Significance]) -> list[str]:
    """It is better than student alone and KD. It ties with KD + uniform lambda: a difference may be chance."""
    by_words: dict[str, list[str]] = {}
    for test in found:
        by_words.setdefault(of_test(test), []).append(test.control.title)
    return [_SAID[words].format(listed(names), len(found)) for words in _SAID if (names := by_words.get(words))]


def _gap(findings: Findings) -> list[str]:
    """How much of what the teacher is better than the student alone was closed, where lambda is better than nothing."""
    comparison = findings.comparison
    assert comparison is not None and findings.learned is not None
    by_name = {method.name: spread(method.all("test").values())[0] for method in comparison.methods}
    if not any(test.control.name == "ce" and test.sign == "better" for test in findings.tests):
        return []
    alone, taught, teacher = by_name["ce"], by_name[findings.learned.method], comparison.teacher["test"]
    if comparison.goal.worth(teacher) <= comparison.goal.worth(alone):
        return []
    share = (taught - alone) / (teacher - alone)
    return [f"The student alone reaches {alone:.4f}, the teacher {teacher:.4f}: {share:.2f} of that gap is closed."]


def pairs_in_words(learned: Learned, most: int = 5) -> list[tuple[str, str, str]]:
    """Words the heaviest pairs: teacher layer, student layer and the weight; without those of less than an even share."""
    even, several = 1 / (len(learned.teacher) * len(learned.student)), len(learned.trials) > 1

    def weight(t: int, s: int) -> str:
        over_seeds = f" ({learned.low[t][s]:.3f} to {learned.high[t][s]:.3f} over the seeds)" if several else ""
        return f"{learned.matrix[t][s]:.3f}{over_seeds}"

    places = strongest_pairs(learned.matrix, most, above=even)
    return [(learned.teacher_names[t], learned.student_names[s], weight(t, s)) for t, s in places]


def matrix_in_words(learned: Learned) -> str:
    """Says how concentrated the matrix is."""
    weights = sorted((weight for row in learned.matrix for weight in row), reverse=True)
    total = sum(weights)
    half = next(n for n in range(1, len(weights) + 1) if sum(weights[:n]) >= 0.5 * total)
    none = sum(weight < 0.001 for weight in weights)
    kept = f"{none} weigh{'s' * (none == 1)} nothing" if none else "each keeps some weight"
    return f"Of {len(weights)} pairs, {half} hold{'s' * (half == 1)} half of the weight; {kept}."


def missing(findings: Findings) -> list[str]:
    """Tells what a finished study would have, and this one has not."""
    found = []
    stands = findings.standing
    for name, counts in (("search", stands.search), ("race of its arms", stands.race), ("comparison", stands.compare)):
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
    """Gives the commands that lead on from the findings, each with what it does."""
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
