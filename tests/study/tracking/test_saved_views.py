"""The saved views, as MLflow's UI reads them back; tests/service/test_mlflow_pages.py opens them in a browser."""

import base64
import json
import zlib
from typing import Any

from kd_hpo.study.tracking.saved_views import BEST_FIRST, SavedView, run_link, saved_views

VIEWS = {view.key: view for view in saved_views("hetero", ["kd.weight", "pairs.strength"], 20)}


def state_of(view: SavedView) -> dict[str, Any]:
    _, value = view.tag()
    kind, _, packed = json.loads(value)["state"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_every_view_is_a_tag_that_the_server_takes() -> None:
    assert list(VIEWS) == ["kd-best", "kd-settings", "kd-methods", "kd-lambda"]
    for view in VIEWS.values():
        name, value = view.tag()
        assert name == f"mlflow.sharedViewState.{view.key}" and len(value) < 20_000
        assert json.loads(value)["name"] == view.title
        assert state_of(view) == view.state


def test_best_first_sorts_by_val_and_shows_why() -> None:
    state = state_of(BEST_FIRST)
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/accuracy`", False)
    assert {"metrics.`val/accuracy`", "metrics.`test/accuracy`", "params.`method`"} <= set(state["selectedColumns"])


def test_settings_have_a_chart_each_and_one_together() -> None:
    charts = state_of(VIEWS["kd-settings"])["compareRunCharts"]
    assert [chart["xaxis"]["key"] for chart in charts if chart["type"] == "SCATTER"] == ["kd.weight", "pairs.strength"]
    assert [chart["selectedParams"] for chart in charts if chart["type"] == "PARALLEL"] == [["kd.weight", "pairs.strength"]]
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_charts_stand_in_sections_of_their_view() -> None:
    for view in VIEWS.values():
        sections = {section["uuid"] for section in view.state.get("compareRunSections", [])}
        assert {chart["metricSectionId"] for chart in view.state.get("compareRunCharts", [])} == sections


def test_matrices_open_at_the_last_epoch() -> None:
    (chart,) = VIEWS["kd-lambda"].state["compareRunCharts"]
    assert (chart["type"], chart["imageKeys"], chart["step"]) == ("IMAGE", ["lambda"], 20)


def test_study_that_searches_nothing_has_no_view_of_settings() -> None:
    assert [view.key for view in saved_views("hetero", [], 20)] == ["kd-best", "kd-methods", "kd-lambda"]


def test_one_setting_alone_needs_no_parallel_axes() -> None:
    (_, settings, *_) = saved_views("hetero", ["kd.weight"], 20)
    assert [chart["type"] for chart in settings.state["compareRunCharts"]] == ["SCATTER"]


def test_links_stay_on_the_server_and_open_the_model_training_view() -> None:
    links = [view.link("7") for view in VIEWS.values()] + [run_link("7", "r"), run_link("7", "r", "lambda.html")]
    assert all(link.startswith("#/experiments/7/runs") and "workflowType=machine_learning" in link for link in links)
    assert "compareRunsMode" not in VIEWS["kd-best"].link("7") and "compareRunsMode=CHART" in VIEWS["kd-lambda"].link("7")
