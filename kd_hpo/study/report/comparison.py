"""A comparison in words: what its numbers depend on, what failed, and its table in Markdown."""

from collections.abc import Callable, Mapping
from typing import Any

from kd_hpo.config.wording import brief
from kd_hpo.study.design.trials import CELL
from kd_hpo.study.report.escaping import in_markdown
from kd_hpo.study.report.words import number, p_value, with_spread
from kd_hpo.study.results.comparison import LEVEL, Comparison, MethodScores


def caption(comparison: Comparison, *, table: bool = True) -> list[str]:
    """Says what the numbers of a comparison depend on, a sentence a line.

    table  whether they stand under the columns of Comparison.frame; else its columns are told elsewhere
    """
    methods = comparison.methods
    least, most = (pick((method.steps for method in methods), default=0) for pick in (min, max))
    each = f"{least}" if least == most else f"{least} to {most}, not the same for all,"
    best = "best: on test at the best epoch by val; " if table else ""
    seeds, splits = comparison.seeds, comparison.splits.items()
    lines = [
        f"test: {comparison.goal.name} on test after the last epoch; {best}val: on val after the last; "
        "mean ± sample standard deviation over seeds. rank: by test, mean over seeds; s: seconds a trial.",
        f"Seeds {seeds[0]} to {seeds[-1]}." if len(seeds) > 1 else f"Seed {seeds[0]}.",
        f"Budget: {each} inner steps a trial ({comparison.epochs} epochs).",
        "Splits: " + ", ".join(f"{name} {size} images {digest[:8]}" for name, (size, digest) in splits) + ".",
        f"Teacher: val {comparison.teacher['val']:.4f}, test {comparison.teacher['test']:.4f}.",
        *(f"Tuning of {', '.join(names)}: {tuning}." for tuning, names in _grouped(comparison, lambda each: each.tuning)),
        *(f"Chosen for {', '.join(names)}: {words}." for words, names in _grouped(comparison, chosen) if words),
    ]
    if assisted := [f"{m.name} (val {number(m.assistant_val, '.4f')})" for m in methods if m.assisted]:
        lines.append(f"Before its steps an assistant, which then teaches, is trained for {', '.join(assisted)}.")
    if comparison.control and table:
        lines.append(
            f"difference: test less that of {comparison.control.name}, the best control by mean, on the same seeds; "
            "p: paired t-test, two-sided, not corrected for the number of methods."
        )
    if comparison.control:
        lines.append(
            f"not worse (nw): than {comparison.control.name} by {comparison.margin:g} or more, by a paired t-test, one-sided at "
            f"{LEVEL:.0%}; no: worse by more than that, by the same test of the other side; unknown: neither is shown."
        )
    else:
        lines.append("There is no control to compare with.")
    return lines


def not_worse_in_words(row: Mapping[Any, Any]) -> str:
    """Words what a row of Comparison.frame says of not being worse: yes, no, unknown; a dash for the best control itself."""
    found = row["not_worse"]
    return found if isinstance(found, str) else "-"


def failures(comparison: Comparison) -> list[str]:
    """Tells of each method of which trials have failed, in a line with what the first of them said."""
    return [
        f"{method.name}: {len(method.failures)} of {len(comparison.seeds)} trials failed: {method.failures[0]}"
        for method in comparison.methods
        if method.failures
    ]


def comparison_in_markdown(comparison: Comparison) -> str:
    """Makes the table of a comparison, a row a method, and under it what failed and what the numbers depend on."""
    lines = ["| method | test | best | val | rank | s | difference | p | not worse |", "|---|---|---|---|---|---|---|---|---|"]
    for row in comparison.frame().to_dict("records"):
        scores = [with_spread(row[name], row[f"{name}_sd"]) for name in ("test", "test_best", "val")]
        others = [number(row["rank"], ".1f"), number(row["seconds"], ".0f")]
        others += [number(row["difference"], "+.4f"), p_value(row["p_value"]), not_worse_in_words(row)]
        lines.append(f"| {row['title']} | {' | '.join(scores + others)} |")
    below = [*map(in_markdown, failures(comparison)), *caption(comparison)]
    return "\n".join([*lines, "", *(f"{line}  " for line in below)])


def chosen(method: MethodScores) -> str:
    """Words the searched settings that were chosen for a method's trials; a matrix of single weights as their number."""
    weights = [path for path in method.settings if path.startswith(CELL)]
    words = [
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {brief(value)}"
        for path, value in method.settings.items()
        if path not in weights
    ]
    return ", ".join([*words, *[f"{len(weights)} weights of lambda"] * bool(weights)])


def _grouped(comparison: Comparison, of: Callable[[MethodScores], str]) -> list[tuple[str, list[str]]]:
    """What is said of methods, and the names of those of which it is."""
    found: dict[str, list[str]] = {}
    for method in comparison.methods:
        found.setdefault(of(method), []).append(method.name)
    return list(found.items())
