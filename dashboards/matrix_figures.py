"""Figures of one matrix: its cells, its pairs over the epochs, how much seeds agree."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from kd_hpo.dashboards.figures import DASHES, FAINT, MARKS, METHODS, SCALE, laid_out
from kd_hpo.dashboards.matrices import NEGLIGIBLE, Layer, Matrices
from kd_hpo.study.report.escaping import in_plotly
from kd_hpo.study.report.matrix import drawn_cells
from kd_hpo.study.results.pairs import strongest_pairs


def layer_text(layer: Layer, letters: int, between: str = "<br>") -> str:
    name = in_plotly(layer.name, letters)
    return f"{name}{between}<i>{layer.size}</i>" if layer.size else name


def heatmap(matrices: Matrices, epoch: int, largest: float) -> go.Figure:
    """A figure of the matrix: teacher layers from the top down in their order, student layers from left to right.

    largest  the weight of the brightest colour: the same at every epoch and in both of two that are compared
    """
    weights = matrices.at(epoch)
    rows, columns = weights.shape
    teacher, student = (
        [layer_text(layer, 26) for layer in matrices.teacher],
        [layer_text(layer, 16) for layer in matrices.student],
    )
    names = np.array([[in_plotly(matrices.pair_name((t, s)), 90) for s in range(columns)] for t in range(rows)])
    figure = go.Figure(
        go.Heatmap(
            z=weights, x=list(range(columns)), y=list(range(rows)), zmin=0, zmax=largest, colorscale=SCALE, xgap=2, ygap=2,
            customdata=names, hovertemplate="%{customdata}: %{z:.4f}<extra></extra>", hoverongaps=False,
            colorbar={"thickness": 12, "title": "λ", "tickformat": ".2g"},
        )
    )  # fmt: skip
    cells = drawn_cells(weights, largest)
    if cells.printed:
        figure.add_scatter(
            x=np.tile(np.arange(columns), rows), y=np.repeat(np.arange(rows), columns), mode="text", hoverinfo="skip",
            text=list(chain(*cells.texts)), showlegend=False,
            textfont={"size": 13 if columns <= 6 else 11, "color": list(chain(*cells.inks))},
        )  # fmt: skip
    figure.update_yaxes(tickvals=list(range(rows)), ticktext=teacher, range=[rows - 0.5, -0.5], title="teacher layer")
    figure.update_xaxes(
        tickvals=list(range(columns)), ticktext=student, side="top", range=[-0.5, columns - 0.5], title="student layer",
        tickangle=0 if columns <= 6 else -60,
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return laid_out(figure, min(150 + 58 * rows, 760))


def trajectories(matrices: Matrices, top: int, epoch: int | None = None) -> go.Figure:
    """A figure of the pairs that weigh most at the end, over the epochs, and the largest of the others together."""
    figure = go.Figure()
    pairs = [pair for pair in matrices.pairs if matrices.weights[:, pair[0], pair[1]].max() >= NEGLIGIBLE][:top]
    for i, (t, s) in enumerate(pairs):
        figure.add_scatter(
            x=matrices.epochs, y=matrices.weights[:, t, s], name=in_plotly(matrices.pair_name((t, s)), 40),
            mode="lines+markers",
            line={"color": METHODS[i % len(METHODS)], "dash": DASHES[i % len(DASHES)], "width": 2.5},
            marker={"symbol": MARKS[i % len(MARKS)], "size": 7, "maxdisplayed": 12}, hovertemplate="%{y:.4f}",
        )  # fmt: skip
    rest = [matrices.weights[:, t, s] for t, s in matrices.pairs if (t, s) not in pairs]
    if rest:
        name = f"the other {len(rest)}, together" if len(rest) > 1 else "the other one"
        line = {"color": "#8a8f98", "width": 1.5, "dash": "dot"}
        figure.add_scatter(
            x=matrices.epochs, y=np.sum(rest, axis=0), name=name, mode="lines", line=line, hovertemplate="%{y:.4f}"
        )
    if epoch is not None:
        figure.add_vline(x=epoch, line={"color": FAINT, "width": 2})
    figure.update_xaxes(title="epoch", tickformat="d")
    figure.update_yaxes(title="λ", rangemode="tozero")
    return laid_out(figure, 400, hovermode="x unified")


def stability(seeds: Sequence[Matrices], top: int) -> go.Figure:
    """A figure of the pairs that weigh most in the mean of the seeds, at the end: each seed, the mean and one deviation."""
    last: NDArray[np.float64] = np.array([each.weights[-1] for each in seeds])  # (seeds, T, S)
    pairs = [(t, s) for t, s in strongest_pairs(last.mean(0)) if last[:, t, s].max() >= NEGLIGIBLE][:top][::-1]
    figure = go.Figure()
    means = [last[:, t, s].mean() for t, s in pairs]
    deviations = [last[:, t, s].std(ddof=1) for t, s in pairs]
    for i, each in enumerate(seeds):
        figure.add_scatter(
            x=[each.weights[-1][pair] for pair in pairs], y=list(range(len(pairs))), mode="markers",
            name=in_plotly(each.title, 24), hovertemplate="%{x:.4f}",
            marker={"symbol": MARKS[i % len(MARKS)], "size": 9, "color": "#d55e00", "opacity": 0.75},
        )  # fmt: skip
    figure.add_scatter(
        x=means, y=list(range(len(pairs))), mode="markers", name="mean ± standard deviation", hovertemplate="%{x:.4f}",
        error_x={"array": deviations, "thickness": 2, "width": 7},
        marker={"symbol": "line-ns-open", "size": 17, "color": "#0072b2", "line": {"width": 3}},
    )  # fmt: skip
    texts = [in_plotly(seeds[0].pair_name(pair), 44) for pair in pairs]
    figure.update_yaxes(tickvals=list(range(len(pairs))), ticktext=texts, range=[-0.6, len(pairs) - 0.4], zeroline=False)
    figure.update_xaxes(title="λ at the end", range=[-0.02 * last.max(), 1.05 * last.max()])
    return laid_out(figure, 130 + 34 * len(pairs), hovermode="closest")
