"""What came out of a study, for a person on a terminal: methods side by side, the matrix, how far it has come."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd_hpo.config.wording import one_line
from kd_hpo.study.report.comparison import caption, failures, not_worse_in_words
from kd_hpo.study.report.matrix import matrix_on_terminal
from kd_hpo.study.report.repeats import HEADS, repeats_caption, repeats_rows
from kd_hpo.study.report.sentences import headline, how_it_moved, how_well_known, missing, progress_of, what_it_came_to, whose
from kd_hpo.study.report.words import number, p_value, with_spread
from kd_hpo.study.results.comparison import Comparison
from kd_hpo.study.results.findings import Findings
from kd_hpo.study.results.pairs import strongest_pairs
from kd_hpo.study.results.repeats import Repeated
from kd_hpo.study.results.standing import Count, Learned, Standing

if TYPE_CHECKING:
    from torch import nn

_WIDE = 120
"""Columns of a terminal that has room for titles, four digits and what was tuned."""
_CELL = 5
"""Columns of a weight: 0.123."""
_MOST_PAIRS = 10
_SHORT = {"yes": "y", "no": "n", "unknown": "?", "-": "-"}


@dataclass(frozen=True)
class Summary:
    """The summary of a study that has come to its end."""

    comparison: Comparison
    learned: Learned | None
    """None where no method learns pair weights."""
    link: str
    """Opens the study's experiment in MLflow's model-training view, once a server runs (`kd-hpo ui`)."""
    repeated: Repeated | None = None
    """Over all repeats, where the study asks for more than one; the comparison and the matrix are those of the first."""
    student: "nn.Module | None" = None
    """Of the best trial that learned lambda, as it was after its last epoch; None where none did, and on a cluster."""


def render(comparison: Comparison, learned: Learned | None, width: int) -> RenderableType:
    """Renders the comparison and the matrix for a terminal of that width, 80 columns or more."""
    lines = [Text(line, "red") for line in _wrapped(failures(comparison), width)]
    lines += [Text(line, "dim") for line in _wrapped(caption(comparison), width)]
    shown: list[RenderableType] = [_table(comparison, wide=width >= _WIDE), Text(), *lines]
    if learned and learned.answer:
        shown += [Text(), *(Text(line) for line in _wrapped(what_it_came_to(learned.answer, comparison.goal), width))]
    return Group(*shown, *([Text(), render_learned(learned, width)] if learned else []))


def render_repeated(repeated: Repeated, width: int) -> RenderableType:
    """Renders the table over the repeats, a row a method."""
    table = _bare_table(wide=width >= _WIDE)
    for head in HEADS:
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in repeats_rows(repeated):
        table.add_row(*row)
    return Group(table, Text(), *(Text(line, "dim") for line in _wrapped([repeats_caption(repeated)], width)))


def render_learned(learned: Learned, width: int) -> RenderableType:
    """Renders the matrix; where it is too wide even with numbers for names, its largest weights."""
    title = f"Learned lambda ({whose(learned)}): which teacher layer (row) teaches which student layer (column)"
    lines = [Text(line, "bold") for line in _wrapped([title], width)]
    teacher, student = ([one_line(name) for name in names] for names in (learned.teacher_names, learned.student_names))
    left = max(map(len, teacher)) + 2
    moved = [Text(line, "dim") for line in _wrapped(list(filter(None, [how_it_moved(learned), how_well_known(learned)])), width)]
    if left + sum(max(len(name), _CELL) + 3 for name in student) < width:
        return Group(*lines, matrix_on_terminal(teacher, [f" {name} " for name in student], learned.matrix, margin=" "), *moved)
    if left + len(student) * (_CELL + 1) < width:
        named = ", ".join(f"{s} {name}" for s, name in enumerate(student, 1))
        columns = [f"{s}" for s in range(1, len(student) + 1)]
        below = [Text(line, "dim") for line in _wrapped([f"Columns: {named}."], width)]
        return Group(*lines, matrix_on_terminal(teacher, columns, learned.matrix, margin=""), *below, *moved)
    largest = strongest_pairs(learned.matrix, _MOST_PAIRS)
    pairs = "".join(f"\n  {learned.matrix[t][s]:.3f}  {teacher[t]} -> {student[s]}" for t, s in largest)
    return Group(*lines, Text(f"Of its {len(teacher)} x {len(student)} weights, the largest are:{pairs}"), *moved)


def render_standing(standing: Standing, width: int) -> RenderableType:
    """Renders how far a study has come: a row a method with how much of it is done."""
    table = _bare_table(wide=width >= _WIDE)
    table.add_column("method")
    raced = ("race", "best val") if standing.race else ()
    for name in ("search", "best val", *raced, "seeds", "best val"):
        table.add_column(name, justify="right", no_wrap=True)
    for method in dict.fromkeys([*standing.search, *standing.compare]):
        counts = (standing.search, *[standing.race] * bool(raced), standing.compare)
        table.add_row(method, *(cell for count in counts for cell in _counted(count, method)))
    about = "search, race, seeds: trials that have ended, of those planned; best val: after the last epoch of a completed trial."
    return Group(table, Text(), *(Text(line, "dim") for line in _wrapped([about], width)))


def render_findings(findings: Findings, width: int) -> RenderableType:
    """Renders what a study has come to so far; of one that is not finished, how much of each method is done comes first."""
    about = Text.assemble((findings.study.name, "bold"), f": {progress_of(findings.standing)}")
    said = [Text(line) for line in _wrapped(headline(findings), width)]
    if findings.comparison is not None and findings.finished:
        repeated = [Text(), render_repeated(findings.repeated, width)] if findings.repeated else []
        return Group(about, *said, Text(), render(findings.comparison, findings.learned, width), *repeated)
    shown: list[RenderableType] = [about, *(Text(line) for line in _wrapped(missing(findings), width)), Text()]
    shown += [render_standing(findings.standing, width)]
    return Group(*shown, *([Text(), render_learned(findings.learned, width)] if findings.learned else []))


def _counted(counts: Mapping[str, Count], method: str) -> tuple[str, str]:
    count = counts.get(method)
    return (f"{count.ended}/{count.planned}", number(count.best, ".4f")) if count else ("-", "-")


def _table(comparison: Comparison, *, wide: bool) -> Table:
    table = _bare_table(wide=wide)
    table.add_column("method", no_wrap=not wide)
    for name in ("n", "test", "best", "val", "rank", "s", "diff.", "p", "not worse" if wide else "nw"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("tuning")
    best = comparison.control
    for row, method in zip(comparison.frame().to_dict("records"), comparison.methods, strict=True):
        digits = 4 if wide else 3
        cells = [with_spread(row[name], row[f"{name}_sd"], digits) for name in ("test", "test_best", "val")]
        cells += [number(row["rank"], ".1f"), number(row["seconds"], ".0f")]
        cells += ["control" if method is best else number(row["difference"], f"+.{digits}f"), p_value(row["p_value"])]
        cells.append(not_worse_in_words(row) if wide else _SHORT[not_worse_in_words(row)])
        count = f"{row['seeds']} ({row['failed']} failed)" if row["failed"] else f"{row['seeds']}"
        table.add_row(method.title if wide else method.name, count, *cells, *[method.tuning] * wide)
    return table


def _bare_table(*, wide: bool) -> Table:
    spaces = (0, 1 if wide else 0)
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=spaces, collapse_padding=not wide)


def _wrapped(lines: list[str], width: int) -> list[str]:
    return [short for line in lines for short in textwrap.wrap(line, min(width, _WIDE), subsequent_indent="  ")]
