"""The studies of a folder, a row each: how far each has come, and how good its students are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kd_hpo.config.wording import one_line
from kd_hpo.errors import KdHpoError
from kd_hpo.study.report.words import number
from kd_hpo.study.results.comparison import Comparison, read_comparison, spread
from kd_hpo.study.results.standing import standing
from kd_hpo.study.store.folder import StudyFolder

_WIDE = 100
"""Columns of a terminal that has room for dates."""
_STYLES = {"finished": "green", "running": "cyan", "unfinished": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Listed:
    study: str
    state: str
    """finished, running, unfinished, or broken."""
    ended: int
    """Trials that have ended, of those planned."""
    planned: int
    val: float
    """The best value of the task's metric on `val` of a completed trial after its last epoch; nan where there is none."""
    test: float
    """The best mean over seeds of a method's value on `test`; nan before the comparison."""
    method: str
    """Which method has it."""
    changed: datetime
    """When its folder was last written to."""
    problem: str = ""
    """What is broken."""


def list_studies(runs: Path) -> list[Listed]:
    """Lists the studies of a folder by name. One whose folder cannot be read is listed as broken, with what is wrong."""
    return [_listed(StudyFolder(path.parent)) for path in sorted(runs.glob("*/study.yaml"))]


def studies_table(listed: Sequence[Listed], width: int) -> RenderableType:
    wide = width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    table.add_column("study", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("trials", "best val", "best test"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("method", overflow="fold")
    if wide:
        table.add_column("last written", no_wrap=True)
    for row in listed:
        cells = [f"{row.ended}/{row.planned}", number(row.val, ".4f"), number(row.test, ".4f"), row.method]
        dates = [f"{row.changed:%Y-%m-%d %H:%M}"] * wide
        table.add_row(row.study, Text(row.state, _STYLES[row.state]), *cells, *dates)
    problems = [Text(f"{row.study} is broken: {one_line(row.problem)}", "red") for row in listed if row.problem]
    return Group(table, *problems)


def _listed(folder: StudyFolder) -> Listed:
    name, changed = folder.root.name, _last_written(folder)
    nan = float("nan")
    try:
        study = folder.read_settings()
        stands, comparison = standing(study, folder), read_comparison(study, folder)
    except KdHpoError as error:
        return Listed(name, "broken", 0, 0, nan, nan, "", changed, str(error))
    best, method = _best_method(comparison) if comparison and stands.state == "finished" else (nan, "")
    return Listed(name, stands.state, stands.ended, stands.planned, stands.best, best, method, changed)


def _best_method(comparison: Comparison) -> tuple[float, str]:
    means = [(spread(method.all("test").values())[0], method.name) for method in comparison.methods if method.by_seed]
    return max(means, key=lambda each: (comparison.goal.worth(each[0]), each[1]), default=(float("nan"), ""))


def _last_written(folder: StudyFolder) -> datetime:
    """Of what trials and the study's end write, in local time."""
    files = [folder.settings, folder.comparison("json"), *(folder.root / "trials").glob("*/records.json")]
    return datetime.fromtimestamp(max(file.stat().st_mtime for file in files if file.is_file())).astimezone()
