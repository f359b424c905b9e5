"""The pictures of a study: methods side by side, and the metric over epochs, over the trials of a search and its settings.

Values of settings are untrusted words: they reach a figure on one line, and are not read as formulae.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from math import ceil, isfinite
from pathlib import Path
from statistics import mean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from kd_hpo.config.task import Goal
from kd_hpo.config.wording import one_line
from kd_hpo.files import write_atomically
from kd_hpo.study.report.words import shorten
from kd_hpo.study.results.comparison import Comparison, spread
from kd_hpo.study.results.standing import settings_of

_POINTS, _CONTROL, _INK, _FAINT, _GRID = "#0072b2", "#c8501e", "#202124", "#9aa0a6", "#e4e6e9"
_LINES = ("#0072b2", "#c8501e", "#00805c", "#a8488c", "#8a6a00", "#444444")
_DASHES = ("-", "--", ":", "-.")
_STATES = {"completed": ("o", _POINTS), "stopped": ("^", _FAINT), "failed": ("x", _CONTROL)}
_MOST_COLUMNS, _MOST_PANELS = 4, 24


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Writes a PNG of comparison_figure."""
    picture = BytesIO()
    comparison_figure(comparison).savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def comparison_figure(comparison: Comparison) -> Figure:
    """Draws a row a method: a point a seed at its score on `test` after the last epoch, mean and deviation beside."""
    methods = comparison.methods
    figure = _figure(8, 1.4 + 0.45 * len(methods))
    axes = figure.add_subplot()
    for place, method in enumerate(methods):
        scores = list(method.all("test").values())
        if not scores:
            axes.text(0.5, place, "failed", color=_FAINT, ha="center", va="center", transform=axes.get_yaxis_transform())
            continue
        average, deviation = spread(scores)
        colour = _CONTROL if method is comparison.control else _POINTS
        axes.plot(scores, [place - 0.13] * len(scores), "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
        around = deviation if deviation == deviation else None
        axes.errorbar(average, place + 0.13, xerr=around, fmt="D", color=_INK, markersize=4.5, capsize=3, linewidth=1.2)
    if comparison.control:
        best = mean(comparison.control.all("test").values())
        axes.axvline(best, color=_CONTROL, linewidth=0.8, linestyle=":", label=f"best control: {comparison.control.name}")
    axes.axvline(comparison.teacher["test"], color=_FAINT, linewidth=0.8, linestyle="--", label="teacher")
    axes.set_yticks(range(len(methods)), [method.name for method in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_xlabel(f"{comparison.goal.name} on test after the last epoch")
    axes.set_title(f"{comparison.study}: a point a seed; ◆ mean ± standard deviation", fontsize=10, loc="left")
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    return figure


def curves_figure(curves: Mapping[str, Sequence[Sequence[float]]], goal: Goal) -> Figure:
    """Draws the metric on `val` over the epochs: a line a method, the mean over its seeds, each of which has a list of values."""
    figure = _figure(8, 3.6)
    axes = figure.add_subplot()
    for i, (method, seeds) in enumerate(curves.items()):
        averages = [mean(scores) for scores in zip(*seeds, strict=True)]
        colour, dashes = _LINES[i % len(_LINES)], _DASHES[i // len(_LINES) % len(_DASHES)]
        axes.plot(range(1, len(averages) + 1), averages, color=colour, linestyle=dashes, linewidth=1.4, label=method)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{goal.name} on val")
    _open(axes)
    figure.legend(fontsize=8, frameon=False, loc="outside right center")
    return figure


def search_figure(searches: Mapping[str, Sequence[Mapping[str, object]]], goal: Goal) -> Figure:
    """Draws a panel a searched method: its trials in order, each at the value on `val` that it reached, and the best so far.

    searches  points as `searched_points` gives them, by method
    """
    columns = min(len(searches), _MOST_COLUMNS)
    rows = ceil(len(searches) / columns)
    figure = _figure(8, 0.7 + (2.6 if columns == 1 else 1.9) * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axes, (method, points) in zip(panels, searches.items(), strict=False):
        _search_panel(axes, method, points, goal)
    for axes in list(figure.axes)[len(searches) :]:
        axes.set_visible(False)
    figure.supxlabel("trial of the search", fontsize=9)
    figure.supylabel(f"{goal.name} on val", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside upper right", ncols=4)
    return figure


def _search_panel(axes: Axes, method: str, points: Sequence[Mapping[str, object]], goal: Goal) -> None:
    scores = [float("nan") if point["score"] is None else _score(point) for point in points]
    for state, (marker, colour) in _STATES.items():
        there = [i for i, point in enumerate(points) if point["state"] == state]
        axes.plot(there, [scores[i] for i in there], marker, color=colour, markersize=5, label=state)
    so_far, best = [], float("nan")
    for point, score in zip(points, scores, strict=True):
        best = score if point["state"] == "completed" and not goal.worth(score) <= goal.worth(best) else best
        so_far.append(best)
    axes.step(range(len(points)), so_far, color=_INK, linewidth=1, where="post", label="best so far")
    axes.set_title(method, fontsize=9, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    _open(axes)


def settings_figure(points: Sequence[Mapping[str, object]], goal: Goal) -> Figure:
    """Draws the metric on `val` against each outer setting of a search: a panel a setting, a mark a trial.

    points  of one search, as `searched_points` gives them
    Positive numbers that span more than a decade get a logarithmic axis; words and booleans a place each. A trial without the
    setting, or that never reached a score, is left out of the panel. Of many settings, such as the cells of a matrix, the
    first 24 are drawn, and the figure says so.
    """
    searched = settings_of(points)
    settings = searched[:_MOST_PANELS]
    columns = min(max(len(settings), 1), _MOST_COLUMNS)
    rows = ceil(max(len(settings), 1) / columns)
    figure = _figure(8, 0.7 + (2.6 if columns == 1 else 2.1) * rows)
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    done = (point for point in points if point["state"] == "completed" and _is_number(point["score"]))
    best = max(done, key=lambda point: goal.worth(_score(point)), default=None)
    for axes, setting in zip(panels, settings, strict=False):
        _setting_panel(axes, setting, [p for p in points if p.get(setting) is not None and _is_number(p["score"])], best)
    for axes in panels[len(settings) :]:
        axes.set_visible(False)
    figure.supylabel(f"{goal.name} on val", fontsize=9)
    if len(settings) < len(searched):
        figure.supxlabel(f"the first {len(settings)} of {len(searched)} settings", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside upper right", ncols=4)
    return figure


def _setting_panel(axes: Axes, setting: str, points: Sequence[Mapping[str, object]], best: Mapping[str, object] | None) -> None:
    numbers = [float(str(point[setting])) for point in points if _is_number(point[setting])]
    words = sorted({str(point[setting]) for point in points})
    numeric = len(numbers) == len(points)
    places = numbers if numeric else [float(words.index(str(point[setting]))) for point in points]
    for state, (marker, colour) in _STATES.items():
        there = [i for i, point in enumerate(points) if point["state"] == state]
        xs, ys = [places[i] for i in there], [_score(points[i]) for i in there]
        axes.plot(xs, ys, marker, color=colour, alpha=0.75, markersize=5, label=state)
    at = [(place, _score(point)) for place, point in zip(places, points, strict=True) if point is best]
    xs, ys = [x for x, _ in at], [y for _, y in at]
    axes.plot(xs, ys, "o", color=_INK, fillstyle="none", markersize=10, label="best completed")
    if not numeric:
        axes.set_xticks(
            range(len(words)), [shorten(one_line(word), max(4, 38 // len(words))) for word in words], parse_math=False
        )
        axes.set_xlim(-0.5, len(words) - 0.5)
    elif places and min(places) > 0 and max(places) > 10 * min(places):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if max(places) < 100 * min(places) else (1,), numticks=6))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_title(shorten(one_line(setting), 34), fontsize=9, loc="left", parse_math=False)
    axes.tick_params(labelsize=8)
    _open(axes)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _score(point: Mapping[str, object]) -> float:
    return float(str(point["score"]))


def svg(figure: Figure) -> str:
    """Writes a figure as an <svg> element for a page that gives its colours as --ink, --faint, --grid, --link and --bad."""
    text = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kd_hpo"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    names = {_INK: "ink", "#000000": "ink", _FAINT: "faint", _GRID: "grid", _POINTS: "link", _CONTROL: "bad"}
    for colour, name in names.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    return drawn[drawn.index("<svg") :]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _open(axes: Axes) -> None:
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
