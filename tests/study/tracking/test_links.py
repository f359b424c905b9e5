"""The saved view, as MLflow's UI reads it back, and links; tests/service/test_mlflow_pages.py opens them in a browser."""

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from kd_hpo.config.task import Classification
from kd_hpo.study.tracking.links import best_first_link, best_first_tag, metrics_link, run_link

GOALS = {
    "accuracy": Classification.goal,
    "loss": Classification.loss,
    "agreement": replace(Classification.agreement, split="unlabelled"),
}


def state_by(goal: str) -> dict[str, Any]:
    name, value = best_first_tag(GOALS[goal], Classification.goal)
    assert name == "mlflow.sharedViewState.kd-best" and len(value) < 5_000  # what a server takes of a tag
    kind, _, packed = json.loads(value)["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


@pytest.mark.parametrize(
    ("goal", "metric", "ascending"),
    [("accuracy", "val/accuracy", False), ("loss", "val/loss", True), ("agreement", "unlabelled/agreement", True)],
)
def test_best_first_sorts_by_what_the_search_goes_by(goal: str, metric: str, ascending: bool) -> None:
    state = state_by(goal)
    assert (state["orderByKey"], state["orderByAsc"]) == (f"metrics.`{metric}`", ascending)
    columns = state["selectedColumns"]
    assert {f"metrics.`{metric}`", "metrics.`val/accuracy`", "metrics.`test/accuracy`", "params.`method`"} <= set(columns)
    assert len(set(columns)) == len(columns)


def test_links_stay_on_the_server_and_open_the_model_training_view() -> None:
    links = [best_first_link("7"), run_link("7", "r"), run_link("7", "r", "lambda.html"), metrics_link("7", "r")]
    assert all(link.startswith("#/experiments/7/runs") and "workflowType=machine_learning" in link for link in links)
    assert links[0].endswith("viewStateShareKey=kd-best")
