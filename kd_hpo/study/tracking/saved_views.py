"""Where MLflow's pages stand, and the saved views that a study opens them with.

A view is what the UI's own "Save as new view" keeps: a tag of the experiment that holds the state of the page as JSON. MLflow
does not document its fields, so tests/service/test_mlflow_pages.py opens every view in a browser.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kd_hpo.trial.result import METRIC

TRAINING = "workflowType=machine_learning"
"""Part of every address: without it the UI opens for generative AI, which shows no runs."""
EXPERIMENTS_LINK = f"#/experiments?{TRAINING}"
TEST_METRIC = "test/accuracy"
_TAG = "mlflow.sharedViewState."


@dataclass(frozen=True)
class SavedView:
    key: str
    title: str
    charts: bool
    """Whether it is a page of charts; else a table."""
    state: dict[str, Any]
    needs: Literal["", "compare", "matrix"] = ""
    """What a completed trial is of, or has; the page is empty before there is one."""

    def link(self, experiment: str) -> str:
        mode = "&compareRunsMode=CHART" if self.charts else ""
        return f"#/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={self.key}{mode}"

    def tag(self) -> tuple[str, str]:
        """Name and value of the experiment's tag that keeps it."""
        state = "deflate;" + base64.b64encode(zlib.compress(json.dumps(self.state).encode(), 9)).decode()
        return _TAG + self.key, json.dumps({"name": self.title, "createdAt": 1, "updatedAt": 1, "state": state})


def run_link(experiment: str, run: str, artifact: str = "") -> str:
    """The page of a run, or of one of its artifacts."""
    return f"#/experiments/{experiment}/runs/{run}{f'/artifacts/{artifact}' if artifact else ''}?{TRAINING}"


def metrics_link(experiment: str, run: str) -> str:
    """The page of a run that draws its metrics, every pair's weight among them, also while it runs."""
    return f"#/experiments/{experiment}/runs/{run}/model-metrics?{TRAINING}"


def model_link(name: str) -> str:
    return f"#/models/{name}?{TRAINING}"


def saved_views(method: str, settings: Sequence[str], epochs: int) -> tuple[SavedView, ...]:
    """best, settings, methods, lambda: what a person wants to know of a study.

    method    whose trials learn lambda, and whose outer settings are searched
    settings  the searched ones, by dotted path; without any there is no view of them
    """
    views = [
        BEST_FIRST,
        SavedView("kd-methods", "Methods side by side", True, _methods(), "compare"),
        SavedView("kd-lambda", "Matrices over time", True, _matrices(method, epochs), "matrix"),
    ]
    if settings:
        views.insert(1, SavedView("kd-settings", "Outer settings", True, _settings(method, settings)))
    return tuple(views)


def _settings(method: str, settings: Sequence[str]) -> dict[str, Any]:
    accuracy = {"key": METRIC, "type": "METRIC"}
    each = [
        _chart("SCATTER", "settings", name, xaxis={"key": name, "type": "PARAM"}, yaxis=accuracy, runsCountToCompare=100)
        for name in settings
    ]
    together = _chart(
        "PARALLEL", "together", "one line is one trial", selectedParams=list(settings), selectedMetrics=[METRIC], showAllRuns=True
    )
    return _state(
        f"tags.`kd.kind` = 'search' and params.method = '{method}'",
        runsHiddenMode="SHOWALL",
        compareRunSections=[
            _section("settings", "Accuracy on val against each outer setting", columns=3),
            _section("together", "All outer settings together", columns=1),
        ],
        compareRunCharts=[*each, together] if len(settings) > 1 else each,
    )


def _methods() -> dict[str, Any]:
    def bar(metric: str) -> dict[str, Any]:
        return _chart("BAR", "methods", metric, metricKey=metric)

    over_epochs = _chart(
        "LINE", "methods", f"{METRIC} by epoch", metricKey=METRIC, selectedMetricKeys=[METRIC], xAxisKey="step",
        xAxisScaleType="linear", scaleType="linear", range={}, lineSmoothness=0, useGlobalXaxisKey=True, yAxisKey="metric",
        yAxisExpressions=[], ignoreOutliers=False,
    )  # fmt: skip
    return _state(
        "tags.`kd.kind` = 'compare'",
        runsHiddenMode="SHOWALL",
        groupBy={"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "method"}]},
        compareRunSections=[_section("methods", "Methods, mean over seeds", columns=2)],
        compareRunCharts=[bar(TEST_METRIC), bar(METRIC), over_epochs],
    )


def _matrices(method: str, epochs: int) -> dict[str, Any]:
    """Of trials that have come to the last epoch: others have no picture there."""
    pictures = _chart("IMAGE", "lambda", "lambda by epoch", imageKeys=["lambda"], step=epochs, showRunParams=False)
    return _state(
        f"tags.`kd.state` = 'completed' and params.method = '{method}'",
        compareRunSections=[_section("lambda", "Lambda: move the slider through the epochs", columns=1, cardHeight=620)],
        compareRunCharts=[pictures],
    )


def _state(filter_string: str, **more: Any) -> dict[str, Any]:
    columns = [f"metrics.`{METRIC}`", f"metrics.`{TEST_METRIC}`", "params.`method`", "params.`seed`", "tags.`kd.state`"]
    return {
        "searchFilter": filter_string,
        "orderByKey": f"metrics.`{METRIC}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_10_RUNS",
        **more,
    }


def _section(key: str, name: str, *, columns: int, **more: Any) -> dict[str, Any]:
    there = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": key, "name": name, "columns": columns, **there, **more}


def _chart(kind: str, section: str, name: str, **more: Any) -> dict[str, Any]:
    about = {"uuid": f"{section}-{kind}-{name}", "type": kind, "metricSectionId": section, "displayName": name}
    return {**about, "deleted": False, "isGenerated": False, "runsCountToCompare": 20, **more}


BEST_FIRST = SavedView("kd-best", "Best first", False, _state("tags.`kd.kind` != 'summary'"))
