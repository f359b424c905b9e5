"""The picture of a comparison."""

from io import BytesIO
from pathlib import Path
from statistics import mean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kd_hpo.files import write_atomically
from kd_hpo.study.comparison import Comparison, spread

_POINTS, _CONTROL, _INK, _FAINT = "#0072b2", "#c8501e", "#202124", "#9aa0a6"


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """A PNG: a row a method; a point a seed at its accuracy on `test` after the last epoch, mean and deviation beside."""
    methods = comparison.methods
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(methods)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
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
    axes.set_xlabel("accuracy on test after the last epoch")
    axes.set_title(f"{comparison.study}: a point a seed; ◆ mean ± standard deviation", fontsize=10, loc="left")
    axes.grid(axis="x", color="#e4e6e9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())
