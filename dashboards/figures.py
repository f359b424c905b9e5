"""Figures of a whole study. Colours are Okabe and Ito's, and every colour has a shape beside it; text takes the page's colour."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from kd_hpo.config.task import Goal
from kd_hpo.dashboards.analysis import is_log
from kd_hpo.dashboards.words import short_paths
from kd_hpo.study.report.colours import VIRIDIS
from kd_hpo.study.report.escaping import in_plotly

STATES = {
    "completed": ("#0072b2", "circle"),
    "stopped": ("#8a8f98", "triangle-down-open"),
    "failed": ("#d55e00", "x-thin-open"),
    "running": ("#009e73", "diamond"),
    "interrupted": ("#cc79a7", "square-open"),
}
METHODS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98")
MARKS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "star", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SCALE = list(VIRIDIS)
LINES = {dark: sample_colorscale(SCALE, np.linspace(*ends, 12)) for dark, ends in {False: (0.0, 0.85), True: (0.3, 1.0)}.items()}
"""For thin lines on a light and on a dark page: without the end of the scale that could not be told from the page."""
OUTLINED = {True: {"line": {"width": 2}}, False: {}}
FAINT = "rgba(138, 143, 152, 0.35)"


def laid_out(figure: go.Figure, height: int, **more: object) -> go.Figure:
    margin = {"l": 10, "r": 10, "t": 28, "b": 10} | dict(more.pop("margin", {}))  # type: ignore[call-overload]
    return figure.update_layout(height=height, margin=margin, hoverlabel={"align": "left"}, **more)


def over_time(trials: pd.DataFrame, goal: Goal) -> go.Figure:
    """The score of each trial at the time of its last epoch, and the best completed one so far."""
    begun = trials["started"].min()
    shown = trials.dropna(subset=["score", "reported"]).sort_values("reported")
    minutes = (shown["reported"] - begun).dt.total_seconds() / 60
    size = 9 if len(shown) < 200 else 6
    hours = bool(len(minutes)) and minutes.max() > 180
    at = minutes / 60 if hours else minutes
    figure = go.Figure()
    done = shown["state"] == "completed"
    if done.any():
        scores = shown.loc[done, "score"]
        best = scores.cummax() if goal.mode == "max" else scores.cummin()
        figure.add_scatter(
            x=at[done], y=best, mode="lines", line={"shape": "hv", "width": 2, "color": "#0072b2"},
            name="best completed so far", hoverinfo="skip",
        )  # fmt: skip
    for state, (colour, mark) in STATES.items():
        chosen = shown["state"] == state
        if chosen.any():
            some = shown[chosen]
            told = [in_plotly(trial, 60) for trial in some.index]
            figure.add_scatter(
                x=at[chosen], y=some["score"], mode="markers", name=state,
                marker={"color": colour, "symbol": mark, "size": size, "opacity": 0.85} | OUTLINED[mark.endswith("-open")],
                customdata=np.column_stack([told, some["method"].map(in_plotly), some["epoch"].fillna(0)]),
                hovertemplate="<b>%{customdata[0]}</b> (%{customdata[1]})<br>"
                f"{in_plotly(goal.name)} %{{y:.4f}} after epoch %{{customdata[2]}}"
                f"<br>%{{x:.1f}} {'h' if hours else 'min'}<extra>{state}</extra>",
            )  # fmt: skip
    figure.update_xaxes(title=f"{'hours' if hours else 'minutes'} since the study began", rangemode="tozero")
    figure.update_yaxes(title=f"{in_plotly(goal.name)} on val")
    return laid_out(figure, 380, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})


def parallel(settings: pd.DataFrame, scores: pd.Series, goal: Goal, *, dark: bool = False) -> go.Figure:
    """A figure with a line a trial through its outer settings to its score; axes beyond a decade are logarithmic.

    Ranges are chosen by dragging along an axis.
    """
    names = short_paths([str(name) for name in settings])
    dimensions = [_axis(in_plotly(names[str(name)], 26), settings[name]) for name in settings]
    dimensions.append({"label": f"<b>{in_plotly(goal.name)}</b>", "values": scores})
    bar = {"title": in_plotly(goal.name), "thickness": 12}
    line = {"color": scores, "colorscale": LINES[dark], "showscale": True, "colorbar": bar}
    figure = go.Figure(
        go.Parcoords(dimensions=dimensions, line=line, labelangle=-14, labelfont={"size": 12}, tickfont={"size": 11})
    )
    return laid_out(figure, 430, margin={"l": 60, "r": 30, "t": 80, "b": 30})


def lines(settings: pd.DataFrame, scores: pd.Series, goal: Goal, *, dark: bool = False) -> go.Figure:
    """The figure of `parallel` to look at only: drawn without WebGL, which takes a browser without a graphics card seconds."""
    names = short_paths([str(name) for name in settings])
    axes = [_axis(in_plotly(names[str(name)], 26), settings[name]) for name in settings]
    axes.append({"label": f"<b>{in_plotly(goal.name)}</b>", "values": scores})
    heights, ticks = zip(*map(_heights, axes), strict=True)
    table = np.column_stack([*heights, np.full(len(scores), np.nan)])  # nan ends a line
    shades = np.minimum((table[:, -2] * len(LINES[dark])).astype(int), len(LINES[dark]) - 1)
    figure = go.Figure()
    for shade, colour in enumerate(LINES[dark]):
        chosen = table[shades == shade]
        if len(chosen):
            figure.add_scatter(
                x=np.tile(np.append(np.arange(len(axes)), np.nan), len(chosen)), y=chosen.ravel(), mode="lines", opacity=0.75,
                line={"color": colour, "width": 1.2}, hoverinfo="skip", showlegend=False,
            )  # fmt: skip
    ground = "rgba(20, 20, 20, 0.7)" if dark else "rgba(255, 255, 255, 0.75)"
    axis_lines = [
        {"type": "line", "x0": i, "x1": i, "y0": 0, "y1": 1, "line": {"color": "#8a8f98", "width": 1}} for i in range(len(axes))
    ]
    plain = {"showarrow": False, "xanchor": "right", "xshift": -3, "font": {"size": 11}, "bgcolor": ground, "borderpad": 1}
    texts = [{"x": i, "y": height, "text": text} | plain for i, each in enumerate(ticks) for height, text in each]
    figure.update_layout(shapes=axis_lines, annotations=texts)  # at once: one by one, plotly reads all that stand there again
    bar = {"title": in_plotly(goal.name), "thickness": 12}
    figure.add_scatter(
        x=np.full(len(scores), len(axes) - 1), y=table[:, -2], mode="markers", showlegend=False,
        marker={"color": scores, "colorscale": LINES[dark], "size": 6, "colorbar": bar},
        customdata=np.column_stack([[in_plotly(trial, 60) for trial in settings.index], scores]),
        hovertemplate="<b>%{customdata[0]}</b>: %{customdata[1]:.4f}<extra></extra>",
    )  # fmt: skip
    labels = [axis["label"] for axis in axes]
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=labels, side="top", tickangle=-14, showgrid=False, zeroline=False,
        range=[-0.45, len(axes) - 0.85], fixedrange=True,
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[-0.04, 1.04], fixedrange=True)
    return laid_out(figure, 430, margin={"l": 10, "r": 10, "t": 70, "b": 10}, dragmode=False)


def _heights(axis: Mapping[str, Any]) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Values on an axis of length 1, and where its labels stand."""
    values = np.asarray(axis["values"], dtype=float)
    low, high = values.min(), values.max()
    width = (high - low) or 1.0
    marks = np.asarray(axis.get("tickvals", np.linspace(low, high, 5)), dtype=float)
    texts = axis.get("ticktext", [f"{mark:.3g}" for mark in marks])
    return (values - low) / width, [((mark - low) / width, text) for mark, text in zip(marks, texts, strict=True)]


def _axis(label: str, values: pd.Series) -> dict[str, object]:
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        words = sorted(values.astype(str).unique())
        texts = [in_plotly(word, 18) for word in words]
        places = values.astype(str).map({word: place for place, word in enumerate(words)})
        return {"label": label, "values": places, "tickvals": list(range(len(words))), "ticktext": texts}
    if not is_log(values):
        return {"label": label, "values": values}
    low, high = np.log10(values.min()), np.log10(values.max())
    marks = [m * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for m in (1, 3)]
    marks = [mark for mark in marks if low <= np.log10(mark) <= high]
    return {"label": label, "values": np.log10(values), "tickvals": np.log10(marks), "ticktext": [f"{m:g}" for m in marks]}


def importances(shares: pd.Series) -> go.Figure:
    shares = shares[::-1]
    labels = [in_plotly(name, 34) for name in shares.index]
    figure = go.Figure(
        go.Bar(
            x=shares, y=labels, orientation="h", marker={"color": "#0072b2"}, width=0.62,
            text=[f"{share:.2f}" for share in shares], textposition="outside", cliponaxis=False,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="share of the differences explained", range=[0, max(shares.max() * 1.12, 0.01)])
    return laid_out(figure, 90 + 38 * len(shares), bargap=0.3)


def states(trials: pd.DataFrame) -> go.Figure:
    """A figure of how many trials of each method and kind stand where."""
    counts = trials.groupby(["method", "kind", "state"], sort=False).size()
    rows = list(dict.fromkeys((method, kind) for method, kind, _ in counts.index))[::-1]
    labels = [f"{in_plotly(method, 26)}, {'comparison' if kind == 'compare' else kind}" for method, kind in rows]
    shapes = {"stopped": "/", "failed": "x", "running": ".", "interrupted": "-"}
    overlay = {"fillmode": "overlay", "size": 7, "solidity": 0.12, "fgopacity": 0.6}
    figure = go.Figure()
    for state, (colour, _) in STATES.items():
        values = [int(counts.get((method, kind, state), 0)) for method, kind in rows]
        if any(values):
            figure.add_bar(
                x=values, y=labels, orientation="h", name=state, text=[value or "" for value in values], textposition="inside",
                marker={"color": colour, "pattern": {"shape": shapes.get(state, ""), **overlay}},
                insidetextanchor="middle", hovertemplate=f"%{{y}}: %{{x}} {state}<extra></extra>", textangle=0,
            )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.3)
    figure.update_xaxes(title="trials", tickformat="d", rangemode="tozero")
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    return laid_out(figure, 110 + 26 * len(rows), legend=legend)


def methods(scores: Mapping[str, Mapping[int, float]], titles: Mapping[str, str], label: str, goal: Goal) -> go.Figure:
    """A figure with a row a method, the best on top: its mean with one standard deviation, and every seed."""
    ordered = sorted(scores, key=lambda method: goal.worth(float(np.mean(list(scores[method].values())))))
    places = dict(zip(sorted({s for by in scores.values() for s in by}), cycle(MARKS), strict=False))
    figure = go.Figure()
    for row, method in enumerate(ordered):
        values = np.array(list(scores[method].values()))
        deviation = values.std(ddof=1) if len(values) > 1 else 0.0
        figure.add_scatter(
            x=[values.mean()], y=[row], mode="markers", error_x={"array": [deviation], "thickness": 2, "width": 8},
            marker={"size": 17, "symbol": "line-ns-open", "color": "#0072b2", "line": {"width": 3}}, showlegend=False,
            hovertemplate=f"<b>{in_plotly(titles[method], 60)}</b><br>{values.mean():.4f} ± {deviation:.4f}<extra></extra>",
        )  # fmt: skip
    for seed, mark in places.items():
        having = [(row, scores[method][seed]) for row, method in enumerate(ordered) if seed in scores[method]]
        figure.add_scatter(
            x=[value for _, value in having], y=[row for row, _ in having], mode="markers", name=f"seed {seed}",
            marker={"size": 8, "symbol": mark, "color": "#d55e00", "opacity": 0.8},
            hovertemplate=f"seed {seed}: %{{x:.4f}}<extra></extra>",
        )  # fmt: skip
    texts = [in_plotly(titles[method], 38) for method in ordered]
    figure.update_yaxes(tickvals=list(range(len(ordered))), ticktext=texts, range=[-0.6, len(ordered) - 0.4], zeroline=False)
    share = all(0 <= score <= 1 for by_seed in scores.values() for score in by_seed.values())
    ends = {"minallowed": -0.02, "maxallowed": 1.02} if share else {}  # a deviation may reach beyond
    figure.update_xaxes(title=f"{in_plotly(goal.name)} on {label}", **ends)
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    return laid_out(figure, 130 + 40 * len(ordered), legend=legend)


def curves(histories: Mapping[str, pd.Series], goal: Goal) -> go.Figure:
    """The metric on val over the epochs, a line a trial."""
    figure = go.Figure()
    for i, (trial, history) in enumerate(histories.items()):
        figure.add_scatter(
            x=history.index, y=history, name=in_plotly(trial, 24), mode="lines+markers",
            line={"color": METHODS[i % len(METHODS)], "dash": DASHES[i % len(DASHES)]},
            marker={"symbol": MARKS[i % len(MARKS)], "size": 6}, hovertemplate="epoch %{x}: %{y:.4f}",
        )  # fmt: skip
    figure.update_xaxes(title="epoch", tickformat="d")
    figure.update_yaxes(title=f"{in_plotly(goal.name)} on val")
    return laid_out(figure, 380, hovermode="x unified")
