"""The addresses of MLflow's pages, and the one saved view, which printed links open: the trials, best first.

A view is what the UI's own "Save as new view" keeps: a tag of the experiment that holds the state of the page as JSON. MLflow
does not document its fields, so tests/service/test_mlflow_pages.py opens it in a browser.
"""

import base64
import json
import zlib

from kd_hpo.config.task import Goal

TRAINING = "workflowType=machine_learning"
"""Part of every address: without it the UI opens for generative AI, which shows no runs."""
EXPERIMENTS_LINK = f"#/experiments?{TRAINING}"
_BEST_FIRST, _TAG = "kd-best", "mlflow.sharedViewState."


def best_first_link(experiment: str) -> str:
    """The page of an experiment's trials, best first; without the view's tag, as MLflow orders them."""
    return f"#/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={_BEST_FIRST}"


def run_link(experiment: str, run: str, artifact: str = "") -> str:
    """The page of a run, or of one of its artifacts."""
    return f"#/experiments/{experiment}/runs/{run}{f'/artifacts/{artifact}' if artifact else ''}?{TRAINING}"


def metrics_link(experiment: str, run: str) -> str:
    """The page of a run that draws its metrics, every pair's weight among them, also while it runs."""
    return f"#/experiments/{experiment}/runs/{run}/model-metrics?{TRAINING}"


def model_link(name: str) -> str:
    return f"#/models/{name}?{TRAINING}"


def best_first_tag(goal: Goal, shown: Goal) -> tuple[str, str]:
    """The name and value of the experiment's tag that keeps the view.

    goal   what the study goes by, which orders the trials
    shown  the task's metric, on `val` and on `test` columns of their own
    """
    metrics = dict.fromkeys((goal.key, shown.on("val"), shown.on("test")))
    state = {
        "searchFilter": "tags.`kd.kind` != 'summary'",
        "orderByKey": f"metrics.`{goal.key}`",
        "orderByAsc": goal.mode == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [
            *(f"metrics.`{metric}`" for metric in metrics),
            *("params.`method`", "params.`seed`", "tags.`kd.state`"),
        ],
        "runsHiddenMode": "FIRST_10_RUNS",
    }
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return _TAG + _BEST_FIRST, json.dumps({"name": "Best first", "createdAt": 1, "updatedAt": 1, "state": packed})
