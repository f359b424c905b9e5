"""What came out of a study, for a person: methods side by side, and the matrix that was learned."""

import textwrap
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd_hpo.config.load import method_names
from kd_hpo.config.pairs import LearnedWeights
from kd_hpo.config.study import StudyConfig
from kd_hpo.study.comparison import Comparison, number, p_value, with_spread
from kd_hpo.study.folder import StudyFolder
from kd_hpo.study.pages import colours, ink_on
from kd_hpo.study.tracking import experiment_link, mean_matrix

_WIDE = 120
"""Columns of a terminal that has room for titles, four digits and what was tuned."""


@dataclass(frozen=True)
class Summary:
    comparison: Comparison
    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    matrix: list[list[float]] | None
    """The learned weights, held, the mean over the seeds of the comparison; None where no method learns them."""
    matrix_method: str
    link: str
    """Opens the study's experiment in MLflow's model-training view, once a server runs (`kd-hpo ui`)."""


def summarise(study: StudyConfig, folder: StudyFolder, comparison: Comparison, experiment: str) -> Summary:
    """The matrix is that of the first method that learns one."""
    link = experiment_link(study, experiment)
    for method in method_names(study):
        done = [s for s in folder.statuses() if (s.spec.kind, s.spec.method, s.state) == ("compare", method, "completed")]
        results = [folder.result(status.spec.id) for status in done]
        if results and isinstance(results[0].config.weighting, LearnedWeights):
            layers = results[0].teacher_layers, results[0].student_layers
            teacher, student = (tuple(layer.name for layer in each) for each in layers)
            return Summary(comparison, teacher, student, mean_matrix([result.held_mean for result in results]), method, link)
    return Summary(comparison, (), (), None, "", link)


def render(summary: Summary, width: int) -> RenderableType:
    """The comparison and the matrix as a person reads them on a terminal of that width, 80 columns or more."""
    lines = [Text(line, "red") for line in _wrapped(summary.comparison.failures(), width)]
    lines += [Text(line, "dim") for line in _wrapped(summary.comparison.caption(), width)]
    shown: list[RenderableType] = [_table(summary.comparison, wide=width >= _WIDE), Text(), *lines]
    if summary.matrix is not None:
        title = f"Learned lambda ({summary.matrix_method}): which teacher layer (row) teaches which student layer (column)"
        shown += [Text(), Text(title, "bold"), _matrix(summary)]
    return Group(*shown)


def _table(comparison: Comparison, *, wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1 if wide else 0), collapse_padding=not wide)
    table.add_column("method", no_wrap=not wide)
    for name in ("n", "test", "best", "val", "rank", "s", "diff.", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("tuning")
    best = comparison.control
    for row, method in zip(comparison.frame().to_dict("records"), comparison.methods, strict=True):
        digits = 4 if wide else 3
        cells = [with_spread(row[name], row[f"{name}_sd"], digits) for name in ("test", "test_best", "val")]
        cells += [number(row["rank"], ".1f"), number(row["seconds"], ".0f")]
        cells += ["control" if method is best else number(row["difference"], f"+.{digits}f"), p_value(row["p_value"])]
        count = f"{row['seeds']} ({row['failed']} failed)" if row["failed"] else f"{row['seeds']}"
        table.add_row(method.title if wide else method.name, count, *cells, *[method.tuning] * wide)
    return table


def _wrapped(lines: list[str], width: int) -> list[str]:
    return [short for line in lines for short in textwrap.wrap(line, min(width, _WIDE), subsequent_indent="  ")]


def _matrix(summary: Summary) -> Table:
    assert summary.matrix is not None
    top = max(max(row) for row in summary.matrix)
    table = Table(padding=(0, 0))
    table.add_column("")
    for name in summary.student_layers:
        table.add_column(f" {name} ", justify="center")
    for name, weights in zip(summary.teacher_layers, summary.matrix, strict=True):
        table.add_row(name, *(_cell(weight, top) for weight in weights))
    return table


def _cell(weight: float, top: float) -> Text:
    colour = colours(np.array(weight / top))
    paper = "".join(f"{channel:02x}" for channel in colour)
    return Text(f" {weight:.3f} ", style=f"{ink_on(colour)} on #{paper}")
