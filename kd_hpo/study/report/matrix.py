"""The matrix of pair weights as a person reads it: a page, a picture, tables of a terminal and of Markdown.

How a cell looks is said once, in `drawn_cells`; the dashboard's heat map takes it from there too. A page, which colours an epoch
when it is chosen, is one HTML file that runs in MLflow's sandboxed artifact frame and gets the same scale of colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import matplotlib  # not later, in a thread: it parses code, and Python 3.11 fails where two threads do that at once
import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table
from rich.text import Text

from kd_hpo.config.wording import one_line
from kd_hpo.study.report.colours import VIRIDIS, colours, ink_on
from kd_hpo.study.report.escaping import in_code, in_html, in_script
from kd_hpo.study.report.words import shorten
from kd_hpo.trial.result import KNOWN_FROM, Rows

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


@dataclass(frozen=True)
class MatrixHistory:
    """The pair weights of one trial, one (T, S) matrix an epoch, oldest first.

    Raises ValueError without an epoch, or if the shapes disagree. A weight that is not finite is kept and shown as nan.
    """

    teacher_layers: tuple[str, ...]
    student_layers: tuple[str, ...]
    epochs: tuple[int, ...]
    matrices: tuple[Rows, ...]

    def __post_init__(self) -> None:
        shape = (len(self.teacher_layers), len(self.student_layers))
        if not self.epochs or 0 in shape or len(self.epochs) != len(self.matrices):
            raise ValueError(
                f"MatrixHistory got {len(self.epochs)} epochs, {len(self.matrices)} matrices and layers {shape}; "
                "give one matrix an epoch, and at least one epoch, teacher layer and student layer."
            )
        for epoch, matrix in zip(self.epochs, self.matrices, strict=True):
            if len(matrix) != shape[0] or {len(row) for row in matrix} != {shape[1]}:
                lengths = [len(row) for row in matrix]
                raise ValueError(f"MatrixHistory got rows of {lengths} weights at epoch {epoch}; give (T, S) = {shape}.")


@dataclass(frozen=True)
class DrawnCells:
    """The content of the cells of every drawing of a (T, S) matrix, a row a teacher layer from the top down.

    texts   (T, S), the weight with three digits
    papers  (T, S, 3), the colour of the cell
    inks    (T, S), black or white, whichever is read better on it
    """

    texts: list[list[str]]
    papers: NDArray[np.uint8]
    inks: list[list[str]]

    @property
    def printed(self) -> bool:
        """Whether a picture has room for the weights themselves: up to 100 cells."""
        return len(self.texts) * len(self.texts[0]) <= 100


def drawn_cells(matrix: ArrayLike, largest: float) -> DrawnCells:
    """Makes the cells of a matrix (T, S) of weights.

    largest  the weight that the brightest colour stands for; above it the colour stays, and what is not finite is grey
    """
    weights = np.asarray(matrix, dtype=np.float64)
    papers = colours(weights / largest)
    texts = [[f"{weight:.3f}" for weight in row] for row in weights.tolist()]
    return DrawnCells(texts, papers, [[ink_on(paper) for paper in row] for row in papers])


def matrix_page(title: str, history: MatrixHistory) -> str:
    """Makes one HTML page: the matrix of an epoch with a slider over epochs, and the largest pairs over epochs.

    It opens at the last epoch. Weights are written with six significant digits, so that a long trial of many pairs stays a small
    file.
    """
    data = {
        "teacher": history.teacher_layers,
        "student": history.student_layers,
        "epochs": history.epochs,
        "matrices": [[[_six_digits(weight) for weight in row] for row in matrix] for matrix in history.matrices],
        "scale": VIRIDIS,
    }
    template = Template(files("kd_hpo.study.report").joinpath("matrix.html").read_text(encoding="utf-8"))
    return template.substitute(title=in_html(title), data=in_script(data))


def matrix_image(
    title: str, teacher_layers: Sequence[str], student_layers: Sequence[str], matrix: ArrayLike, *, vmax: float
) -> NDArray[np.uint8]:
    """Draws the matrix of an epoch as a picture, for a slider over epochs: (T, S) weights -> (400, 480, 3).

    vmax  the weight that the brightest colour stands for: the same at every epoch, or epochs cannot be compared
    Weights are printed in the cells up to 100 pairs. Drawn with PIL: about 5 ms, where matplotlib takes 70 to 220.
    Raises ValueError if the shape is not that of the layers, or vmax is not above 0.
    """
    from PIL import Image, ImageDraw

    weights = np.asarray(matrix, dtype=np.float64)
    rows, columns = len(teacher_layers), len(student_layers)
    if weights.shape != (rows, columns) or not weights.size:
        raise ValueError(f"matrix_image got a matrix {weights.shape} for layers {(rows, columns)}; give one weight a pair.")
    if not vmax > 0:
        raise ValueError(f"matrix_image got vmax={vmax}; give a weight above 0, such as 1.0, the same at every epoch.")

    width, height, ink, faint = 480, 400, (32, 33, 36), (95, 99, 104)
    small, bold = _font(11), _font(13, "DejaVuSans-Bold.ttf")
    teachers = [_fit(name, small, 130) for name in teacher_layers]
    left = 30 + round(max(small.getlength(name) for name in teachers))
    right, bottom = width - 58, height - 10
    xs = np.linspace(left, right, columns + 1).round().astype(int).tolist()
    level = all(small.getlength(one_line(name)) < xs[1] - xs[0] - 4 for name in student_layers)  # else on their side
    students = [_fit(name, small, xs[1] - xs[0] if level else 100) for name in student_layers]
    top = 58 + (14 if level else round(max(small.getlength(name) for name in students)))
    ys = np.linspace(top, bottom, rows + 1).round().astype(int).tolist()

    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)

    def sideways(x: float, y: float, text: str, colour: tuple[int, int, int]) -> None:
        """Text read upwards, centred on x, its end at y."""
        strip = Image.new("L", (math.ceil(small.getlength(text)) + 2, 16))
        ImageDraw.Draw(strip).text((0, 8), text, fill=255, font=small, anchor="lm")
        picture.paste(colour, (round(x) - 8, round(y)), strip.transpose(Image.Transpose.ROTATE_90))

    draw.text((12, 18), _fit(title, bold, width - 24), fill=ink, font=bold, anchor="lm")
    draw.text(((left + right) / 2, 42), "student layer", fill=faint, font=small, anchor="mm")
    sideways(12, (top + bottom - small.getlength("teacher layer")) / 2, "teacher layer", faint)
    for name, y0, y1 in zip(teachers, ys, ys[1:], strict=False):
        draw.text((left - 6, (y0 + y1) / 2), name, fill=ink, font=small, anchor="rm")
    for name, x0, x1 in zip(students, xs, xs[1:], strict=False):
        if level:
            draw.text(((x0 + x1) / 2, top - 10), name, fill=ink, font=small, anchor="mm")
        else:
            sideways((x0 + x1) / 2, top - 6 - small.getlength(name), name, ink)

    cells = drawn_cells(weights, vmax)
    roomy = xs[1] - xs[0] >= 40
    digits = _font(11 if roomy else 10)
    for t in range(rows):
        for s in range(columns):
            draw.rectangle((xs[s], ys[t], xs[s + 1] - 2, ys[t + 1] - 2), fill=tuple(cells.papers[t, s].tolist()))
            if cells.printed:
                middle = ((xs[s] + xs[s + 1]) / 2 - 1, (ys[t] + ys[t + 1]) / 2 - 1)
                value = cells.texts[t][s] if roomy else cells.texts[t][s].removeprefix("0")
                zero = not value.strip("0.") and cells.inks[t][s] == "white"
                draw.text(middle, value, fill="#b7a5bd" if zero else cells.inks[t][s], font=digits, anchor="mm")

    ramp = np.repeat(colours(np.linspace(1, 0, bottom - top - 1))[:, None], 12, axis=1)
    picture.paste(Image.fromarray(ramp), (right + 10, top))
    above = "≥" if np.nanmax(weights, initial=0) > vmax else ""
    draw.text((right + 26, top + 5), f"{above}{vmax:.2g}", fill=faint, font=_font(10), anchor="lm")
    draw.text((right + 26, bottom - 7), "0", fill=faint, font=_font(10), anchor="lm")
    return np.array(picture)


def matrix_in_markdown(teacher_layers: Sequence[str], student_layers: Sequence[str], matrix: Rows) -> str:
    """Writes the matrix (T, S) as a table: a row a teacher layer, a column a student layer."""
    head = f"| teacher \\ student | {' | '.join(map(in_code, student_layers))} |"
    texts = drawn_cells(matrix, 1.0).texts
    rows = [f"| {in_code(name)} | {' | '.join(row)} |" for name, row in zip(teacher_layers, texts, strict=True)]
    return "\n".join([head, "|---" * (len(student_layers) + 1) + "|", *rows])


def t_texts(t_values: Rows) -> list[list[str]]:
    """Words the t-values of pairs (T, S) as they are read, those that are known with a mark."""
    return [[f"{t:+.1f}{'*' if abs(t) > KNOWN_FROM else ''}" for t in row] for row in t_values]


def matrix_on_terminal(rows: Sequence[str], columns: Sequence[str], matrix: Rows, *, margin: str) -> Table:
    """Makes a coloured table of the matrix (T, S), its brightest colour at its largest weight.

    margin  spaces on both sides of a weight
    """
    cells = drawn_cells(matrix, max(map(max, matrix)))
    table = Table(padding=(0, 0))
    table.add_column("")
    for name in columns:
        table.add_column(Text(name), justify="center")
    for name, *row in zip(rows, cells.texts, cells.papers.tolist(), cells.inks, strict=True):
        shown = (
            Text(f"{margin}{text}{margin}", style=f"{ink} on #{bytes(paper).hex()}")
            for text, paper, ink in zip(*row, strict=True)
        )
        table.add_row(Text(name), *shown)
    return table


def _six_digits(weight: float) -> float | None:
    return float(f"{weight:.6g}") if math.isfinite(weight) else None  # JSON has no nan


@cache
def _font(size: int, name: str = "DejaVuSans.ttf") -> "FreeTypeFont":
    """The font that matplotlib brings, so that a picture is the same on every machine."""
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts/ttf", name)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _fit(text: str, font: "FreeTypeFont", width: float) -> str:
    text = shorten(one_line(text), 100)
    return next((short for n in range(len(text), 3, -1) if font.getlength(short := shorten(text, n)) <= width), text[:3])
