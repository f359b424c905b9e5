"""What came out of a study: methods side by side, and the matrix that was learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd_hpo.config.load import method_names
from kd_hpo.config.study import Method, StudyConfig
from kd_hpo.config.trial import LearnedWeights
from kd_hpo.study.folder import StudyFolder
from kd_hpo.study.pages import colours, ink_on
from kd_hpo.study.tracking import experiment_link, mean_matrix
from kd_hpo.trial.evaluate import score
from kd_hpo.trial.methods import METHODS
from kd_hpo.trial.prepare import Prepared
from kd_hpo.trial.result import METRIC, TrialResult


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; the text of one seed has no deviation."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return mean(self.values)

    def __str__(self) -> str:
        spread = f" ±{stdev(self.values):.4f}".replace("±0.", "±.") if len(self.values) > 1 else ""
        return f"{self.mean:.4f}{spread}"


@dataclass(frozen=True)
class Row:
    """One method: accuracies on `val` and `test` after the last epoch, and on `test` at the best epoch by `val`."""

    method: str
    title: str
    val: Spread | None
    test: Spread | None
    test_best: Spread | None
    failed: int


@dataclass(frozen=True)
class Summary:
    rows: tuple[Row, ...]
    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    matrix: list[list[float]] | None
    """The learned weights, held, the mean over the seeds of the comparison; None where no method learns them."""
    matrix_method: str
    seeds: int
    link: str
    """Opens the study's experiment in MLflow's model-training view, once a server runs (`kd-hpo ui`)."""

    def table(self) -> list[dict[str, float | str]]:
        """For machines: a row a method."""
        cells = []
        for row in self.rows:
            cell: dict[str, float | str] = {"method": row.method, "title": row.title, "failed": row.failed}
            for name, spread in (("val", row.val), ("test", row.test), ("test_best", row.test_best)):
                if spread is not None:
                    cell[f"{name}_mean"] = spread.mean
                    if len(spread.values) > 1:
                        cell[f"{name}_sd"] = stdev(spread.values)
            cells.append(cell)
        return cells


def summarise(study: StudyConfig, folder: StudyFolder, prepared: Prepared, experiment: str) -> Summary:
    statuses = [s for s in folder.statuses() if s.spec.kind == "compare"]
    teacher = score(prepared.teacher.network, prepared.batches, prepared.splits.test).accuracy
    rows = [Row("teacher", "teacher", Spread((prepared.teacher.val.accuracy,)), Spread((teacher,)), None, 0)]
    learned, matrix_method = list[TrialResult](), ""
    titles = {m.name: m.name for m in study.compare.methods if isinstance(m, Method)}
    for name in method_names(study):
        of_method = [s for s in statuses if s.spec.method == name]
        done = [s.spec.id for s in of_method if s.state == "completed"]
        tests = [t for t in map(folder.test_scores, done) if t is not None]
        rows.append(
            Row(
                name,
                titles.get(name) or METHODS[name].title,
                _spread([folder.records(trial)[-1].metrics[METRIC] for trial in done]),
                _spread([t.last for t in tests]),
                _spread([t.best for t in tests]),
                len(of_method) - len(done),
            )
        )
        results = [folder.result(trial) for trial in done]
        if not learned and results and isinstance(results[0].config.weighting, LearnedWeights):
            learned, matrix_method = results, name
    return Summary(
        rows=tuple(rows),
        teacher_layers=tuple(layer.name for layer in learned[0].teacher_layers) if learned else (),
        student_layers=tuple(layer.name for layer in learned[0].student_layers) if learned else (),
        matrix=mean_matrix([result.held_mean for result in learned]) if learned else None,
        matrix_method=matrix_method,
        seeds=study.compare.seeds,
        link=experiment_link(study, experiment),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(tuple(values)) if values else None


def render(summary: Summary) -> RenderableType:
    """The comparison and the matrix as a person reads them on a terminal."""
    seeds = f", mean ± standard deviation over {summary.seeds} seeds" if summary.seeds > 1 else ""
    table = Table(title=f"Accuracy{seeds}", title_justify="left", title_style="bold")
    table.add_column("method")
    for heading in ("val", "test", "test, best epoch by val"):
        table.add_column(heading, justify="right")
    for row in summary.rows:
        failed = f" ({row.failed} failed)" if row.failed else ""
        table.add_row(row.title + failed, *("-" if s is None else str(s) for s in (row.val, row.test, row.test_best)))
    if summary.matrix is None:
        return table
    title = f"Learned lambda ({summary.matrix_method}): which teacher layer (row) teaches which student layer (column)"
    return Group(table, Text(), Text(title, "bold"), _matrix(summary))


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
