"""Every page without a browser, by Streamlit's own test runner, on studies that nobody ran."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from streamlit.testing.v1 import AppTest

from kd_hpo.config.task import Classification, Goal
from kd_hpo.dashboards import analysis, page_study
from kd_hpo.dashboards.__main__ import APP, warm_up
from kd_hpo.dashboards.figures import STATES, curves, lines, over_time, states
from kd_hpo.dashboards.parts import ALL, DRAWN, GRID
from kd_hpo.dashboards.tracked import StudyRuns, Tracking
from kd_hpo.study.store.export_file import Export
from tests.dashboards.conftest import Studies
from tests.dashboards.made_up import COMPARED, ENDED, HOSTILE, RUNNING, SEARCHED

PAGE = """
from kd_hpo.dashboards import page_{page}
from kd_hpo.dashboards.tracked import tracking
tracked = tracking({uri!r})
page_{page}.show(tracked, tracked.read(tracked.studies()[{study!r}]))
"""


def opened(studies: Studies, page: str, study: str = ENDED) -> AppTest:
    app = AppTest.from_string(PAGE.format(page=page, uri=studies.uri, study=study), default_timeout=120)
    app.session_state[DRAWN] = ALL
    return app.run()


def words(app: AppTest) -> str:
    shown = [*app.info, *app.warning, *app.error, *app.caption, *app.markdown, *app.subheader]
    return "\n".join(str(each.value) for each in shown)


def read(studies: Studies, study: str = ENDED) -> StudyRuns:
    tracked = Tracking(studies.uri)
    return tracked.read(tracked.studies()[study])


def test_trials_are_read_as_they_were_logged(studies: Studies) -> None:
    study = read(studies)
    assert set(study.trials.index) == {*SEARCHED, *COMPARED}
    assert study.trials["state"].value_counts().to_dict() == {"completed": 9, "stopped": 1, "failed": 1}
    assert study.trials.loc["hetero-t003", "score"] == pytest.approx(0.56)
    assert study.trials.loc["hetero-s1", "epoch"] == 3
    assert study.settings.loc["hetero-t002", "kd.weight"] == pytest.approx(1.1)
    assert study.trials["has_matrix"].sum() == 8 and not study.trials.loc["kd-s0", "has_matrix"]
    assert study.trials["learns"].to_dict() | {"hetero-t006": True} == {
        trial: trial.startswith("hetero") for trial in study.trials.index
    }
    assert study.ended and not study.running


def test_second_reading_asks_for_what_has_changed_only(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = Tracking(studies.uri)
    first = tracked.read(tracked.studies()[ENDED])
    asked: list[str] = []
    search = MlflowClient.search_runs

    def counted(self: MlflowClient, ids: list[str], query: str = "", **rest: object) -> object:
        asked.append(query)
        return search(self, ids, query, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "search_runs", counted)
    second = tracked.read(tracked.studies()[ENDED])
    assert all(asked) and len(asked) == 2
    assert second.trials.equals(first.trials)


def test_study_page_shows_all_that_was_asked_for(studies: Studies) -> None:
    app = opened(studies, "study")
    assert not app.exception
    assert {metric.label: metric.value for metric in app.metric}["Best accuracy on val"] == "0.7300"
    leaderboard = app.dataframe[0].value
    assert list(leaderboard["trial"][:2]) == ["hetero-s1", "hetero-s0"]
    assert "the loss was not finite at step 3" in app.dataframe[1].value["what it said"][0]
    assert "5 completed trials" in words(app)  # importance is told
    assert len(app.get("plotly_chart")) == 5
    app.selectbox(key="method").select("kd").run()
    assert set(app.dataframe[0].value["method"]) == {"kd"}
    app.segmented_control(key="kind").set_value("search").run()
    assert "No trial of this choice" in words(app)


def test_study_page_begins_with_the_best_trials_alone(studies: Studies) -> None:
    app = AppTest.from_string(PAGE.format(page="study", uri=studies.uri, study=ENDED), default_timeout=120).run()
    assert not app.exception
    assert not app.dataframe and not app.get("plotly_chart")
    (table,) = (each.value for each in app.markdown if each.value.startswith("| trial |"))
    assert table.splitlines()[2] == r"| hetero\-s1 | hetero | completed | 0\.7300 |"
    assert len(table.splitlines()) == 2 + page_study.MOST_TOLD
    app.session_state[DRAWN] = GRID  # what the browser says once it has drawn that
    app.run()
    assert len(app.dataframe[0].value) == len(SEARCHED) + len(COMPARED)
    assert not app.get("plotly_chart")
    app.session_state[DRAWN] = ALL
    assert len(app.run().get("plotly_chart")) == 5


def test_what_was_read_is_the_same_until_something_changes(studies: Studies) -> None:
    tracked = Tracking(studies.uri)
    first = tracked.read(tracked.studies()[ENDED])
    assert tracked.read(tracked.studies()[ENDED]) is first
    tracked.client.set_tag(first.trials.loc["kd-s0", "run"], "mlflow.note.content", "told later")
    tracked.forget()
    assert tracked.read(tracked.studies()[ENDED]).trials.loc["kd-s0", "note"] == "told later"


def test_study_is_read_before_anybody_visits(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", studies.uri)
    warm_up(studies.uri, ENDED)
    assert gc.isenabled()
    monkeypatch.setattr(MlflowClient, "get_metric_history", lambda *_: pytest.fail("read again"))
    assert len(opened(studies, "study").get("plotly_chart")) == 5


def test_lambda_page_shows_layers_epochs_and_two_side_by_side(studies: Studies) -> None:
    app = opened(studies, "lambda")
    assert not app.exception
    assert app.selectbox(key="left").value == "method: hetero"  # what was learned comes first
    assert app.select_slider(key="epoch").value == 3
    numbers = app.dataframe[0].value
    assert list(numbers.index) == ["conv1", "conv2", "fc"] and list(numbers.columns) == ["conv1", "fc"]
    assert numbers.to_numpy()[0, 0] == pytest.approx(0.29)  # the mean of both seeds
    app.select_slider(key="epoch").set_value(1).run()
    assert app.dataframe[0].value.to_numpy()[0, 0] == pytest.approx(0.29 / 3, abs=1e-4)
    app.selectbox(key="right").select("hetero-t000").run()
    assert [len(app.dataframe), len(app.get("plotly_chart"))] == [2, 7]
    assert "is the largest pair of 2 of 2 seeds" in words(app)


def test_lambda_page_plays_to_the_end_and_stops(studies: Studies) -> None:
    app = opened(studies, "lambda")
    app.select_slider(key="epoch").set_value(1).run()
    app.button(key="play").click().run()
    for _ in range(6):
        app.run()
    assert app.select_slider(key="epoch").value == 3
    assert app.button(key="play").label == "Play"


def test_compare_page_tests_every_method_against_the_control(studies: Studies) -> None:
    app = opened(studies, "compare")
    assert not app.exception
    assert app.selectbox(key="against").value == "kd"  # the best control
    tested = app.dataframe[0].value.set_index("method")
    assert tested.loc["KD + learned lambda", "difference"] == pytest.approx(0.0575)
    assert tested.loc["KD + learned lambda", "rank"] == 1.0
    assert tested.loc["KD", "verdict"] == "what is tested against"
    assert "it diverged" in words(app)
    app.selectbox(key="score").select("val").run()
    assert "val" in app.get("plotly_chart")[0].proto.spec


def test_compare_page_before_the_end_says_so(studies: Studies) -> None:
    assert "No trial of the comparison has completed yet" in words(opened(studies, "compare", RUNNING))


def test_export_page_hands_out_what_apply_takes(studies: Studies) -> None:
    app = opened(studies, "export")
    assert not app.exception
    chosen = app.multiselect(key="export")
    assert chosen.options == ["hetero-s1", "hetero-s0", *(f"hetero-t{i:03d}" for i in (4, 3, 2, 1, 0))]
    assert chosen.value == ["hetero-s1"]
    chosen.set_value(["hetero-t004", "hetero-s1"]).run()
    export = Export.model_validate_json(app.code[0].value)
    assert [(m.rank, m.trial) for m in export.matrices] == [(1, "hetero-s1"), (2, "hetero-t004")]
    assert export.matrices[0].test is not None and export.matrices[0].test.last == 0.71  # from the study's comparison
    assert export.matrices[1].test is None
    assert export.matrices[0].teacher_layers[0].shape == (8, 8, 8)
    assert f"kd-hpo apply {ENDED}-lambda.json" in app.code[1].value


def test_hostile_names_are_shown_as_they_are(studies: Studies) -> None:
    app = opened(studies, "lambda", RUNNING)
    assert not app.exception
    assert list(app.dataframe[0].value.index) == list(HOSTILE)
    told = words(app)
    assert "\\<img src\\=x" in told and "<img" not in told.replace("\\<img", "")
    for chart in app.get("plotly_chart"):
        spec = json.loads(chart.proto.spec)
        texts = json.dumps(spec["layout"]) + json.dumps([trace.get("name", "") for trace in spec["data"]])
        assert "<img" not in texts and "<b>fc" not in texts


@pytest.mark.parametrize("page", ["study", "lambda", "compare", "export"])
def test_study_without_trials_says_what_is_missing(studies: Studies, page: str) -> None:
    client = MlflowClient(studies.uri)
    if client.get_experiment_by_name("empty") is None:
        client.create_experiment("empty", tags={"kd.study": "empty"})
    app = opened(studies, page, "empty")
    assert not app.exception
    assert app.info


def test_frame_without_mlflow_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    app = AppTest.from_file(str(APP), default_timeout=120).run()
    assert not app.exception and "kd-hpo ui" in app.error[0].value
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    app.run()
    assert not app.exception and "cannot be read" in app.error[0].value


def test_pages_load_neither_torch_nor_ray(studies: Studies) -> None:
    """The dashboard's process stays small: every page is drawn once, and what came with it is looked at."""
    code = f"""
import json, sys
from streamlit.testing.v1 import AppTest
import kd_hpo.dashboards.__main__, kd_hpo.dashboards.frame
for page in ("study", "lambda", "compare", "export"):
    app = AppTest.from_string({PAGE!r}.format(page=page, uri={studies.uri!r}, study={ENDED!r}), default_timeout=120)
    app.session_state[{DRAWN!r}] = {ALL}
    app.run()
    assert not app.exception and app.get("plotly_chart"), page
print(json.dumps(sorted(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(told.stdout.splitlines()[-1]))
    assert "kd_hpo.dashboards.page_export" in loaded
    assert not loaded & {"torch", "torchvision", "ray"}


def test_no_colour_stands_alone() -> None:
    assert len({mark for _, mark in STATES.values()}) == len(STATES)
    drawn = curves({f"hetero-t{i:03d}": pd.Series({1: 0.5, 2: 0.6}) for i in range(10)}, Classification.goal).data
    assert len({(trace.line.dash, trace.marker.symbol) for trace in drawn}) == len(drawn)
    counts = states(pd.DataFrame({"method": "hetero", "kind": "search", "state": list(STATES)}))
    assert len({trace.marker.pattern.shape for trace in counts.data}) == len(STATES)


def test_parallel_coordinates_without_webgl_show_the_best_and_some_others() -> None:
    trials = [f"hetero-t{i:03d}" for i in range(7)]
    settings = pd.DataFrame({"kd.weight": [10.0**-i for i in range(7)], "kd.kind": list("aabbaba")}, index=trials)
    accuracy = pd.Series(np.linspace(0.5, 0.8, 7), index=trials)
    figure = lines(settings, accuracy, Classification.goal)
    assert {trace.type for trace in figure.data} == {"scatter"}
    drawn = [np.asarray(trace.y, dtype=float) for trace in figure.data if trace.mode == "lines"]
    assert sum(np.isnan(heights).sum() for heights in drawn) == 7  # a line a trial
    assert drawn[-1][:-1] == pytest.approx([0, 0, 1])  # the best one: the least weight, the first kind
    assert "1e-06" in {note.text for note in figure.layout.annotations}  # a logarithmic axis


def test_less_is_better_where_the_metric_is_an_error() -> None:
    error = Goal("error", "min")
    scores = {"hetero": {0: 0.1, 1: 0.2}, "kd": {0: 0.3, 1: 0.3}, "ce": {0: 0.5, 1: 0.4}}
    table = analysis.tests(scores, "kd", error, 0.2)
    assert list(table.index) == ["hetero", "kd", "ce"] and list(table["rank"]) == [1, 2, 3]
    assert list(table["not_worse"].fillna("")) == ["yes", "", "unknown"]
    hours = pd.to_datetime([1, 2, 3], unit="h", utc=True)
    trials = pd.DataFrame(
        {"method": "hetero", "state": "completed", "score": [0.4, 0.2, 0.3], "epoch": 1, "started": hours[0], "reported": hours}
    )
    figure = over_time(trials, error)
    assert list(figure.data[0].y) == [0.4, 0.2, 0.2] and figure.layout.yaxis.title.text == "error on val"
