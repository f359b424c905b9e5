"""The two networks as two columns of layers, each pair a ribbon whose width is its weight."""

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from kd_hpo.dashboards.figures import SCALE, laid_out
from kd_hpo.dashboards.matrices import NEGLIGIBLE, Matrices
from kd_hpo.dashboards.matrix_figures import layer_text
from kd_hpo.study.report.escaping import in_plotly

MOST_RIBBONS = 200
"""Drawn; the largest ones."""
_FULL = 0.86
"""Of the space of a layer that the heaviest layer of the whole history fills."""
_ALONG = np.linspace(0, 1, 24)
_BEND = 3 * _ALONG**2 - 2 * _ALONG**3


def heaviest(matrices: Matrices) -> float:
    """The largest total weight of a layer at any epoch: the scale of the ribbons."""
    return float(max(matrices.weights.sum(1).max(), matrices.weights.sum(2).max()))


def ribbons(matrices: Matrices, epoch: int, largest: float, heaviest_layer: float) -> go.Figure:
    """A figure of layers from the top down in their order. Colour and scale are those of `heatmap`."""
    weights = matrices.at(epoch)
    rows, columns = weights.shape
    height = float(max(rows, columns))
    left, right = _centres(rows, height), _centres(columns, height)
    scale = _FULL * min(height / rows, height / columns) / heaviest_layer
    shown = weights * (weights >= max(NEGLIGIBLE, np.sort(weights.ravel())[::-1][:MOST_RIBBONS][-1]))
    starts = left[:, None] + (np.cumsum(shown, 1) - shown - shown.sum(1, keepdims=True) / 2) * scale
    ends = right[None, :] + (np.cumsum(shown, 0) - shown - shown.sum(0, keepdims=True) / 2) * scale
    figure = go.Figure()
    order = sorted(np.argwhere(shown > 0).tolist(), key=lambda pair: weights[pair[0], pair[1]])
    for t, s in order:  # the heaviest on top
        weight = float(weights[t, s])
        top = starts[t, s] + (ends[t, s] - starts[t, s]) * _BEND
        colour = sample_colorscale(SCALE, min(weight / largest, 1.0))[0]
        figure.add_scatter(
            x=np.concatenate([_ALONG, _ALONG[::-1]]), y=np.concatenate([top, (top + weight * scale)[::-1]]),
            fill="toself", fillcolor=colour, line={"width": 0.6, "color": "rgba(255,255,255,0.55)"}, mode="lines", opacity=0.86,
            hoveron="fills", hoverinfo="text", text=f"{in_plotly(matrices.pair_name((t, s)), 90)}: {weight:.4f}",
            showlegend=False,
        )  # fmt: skip
    for x, layers, centres, totals in (
        (0, matrices.teacher, left, shown.sum(1)),
        (1, matrices.student, right, shown.sum(0)),
    ):
        for layer, centre, total in zip(layers, centres, totals, strict=True):
            _node(figure, x, float(centre), max(float(total) * scale, 0.06))
            figure.add_annotation(
                x=x, y=centre, text=layer_text(layer, 24), showarrow=False, xanchor="left" if x else "right",
                xshift=12 if x else -12, align="left" if x else "right", font={"size": 12},
            )  # fmt: skip
    for x, title in ((0, "<b>teacher</b>"), (1, "<b>student</b>")):
        figure.add_annotation(x=x, y=0, text=title, showarrow=False, yshift=16, xanchor="center", font={"size": 14})
    beside = 0.08 + 0.013 * max(min(len(layer.name), 24) for layer in (*matrices.teacher, *matrices.student))
    figure.update_xaxes(visible=False, range=[-beside, 1 + beside], fixedrange=True)
    figure.update_yaxes(visible=False, range=[height, -0.15], fixedrange=True)
    return laid_out(figure, int(min(110 + 64 * height, 860)), dragmode=False)


def _centres(layers: int, height: float) -> NDArray[np.float64]:
    return (np.arange(layers) + 0.5) * height / layers


def _node(figure: go.Figure, x: int, centre: float, size: float) -> None:
    figure.add_shape(
        type="rect",
        x0=x - 0.012,
        x1=x + 0.012,
        y0=centre - size / 2,
        y1=centre + size / 2,
        fillcolor="#8a8f98",
        line={"width": 0},
    )
