"""The frame around the pages: which study, how fresh, where MLflow and Optuna's own dashboard are."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st
from mlflow.entities import Experiment

from kd_hpo.dashboards import page_compare, page_export, page_lambda, page_study
from kd_hpo.dashboards.parts import bound
from kd_hpo.dashboards.tracked import UNREADABLE, StudyRuns, Tracking, refusal, tracking
from kd_hpo.dashboards.words import count
from kd_hpo.study.report.escaping import in_streamlit

ICON = Path(__file__).with_name("icon.svg")
REFRESH_S = 5.0
"""How often a page reads MLflow again while a trial runs."""
STYLE = """<style>
[data-testid=stMainBlockContainer] { padding-top: 3.6rem; }
.parcoords .axis .domain, .parcoords .axis line { stroke: #8a8f98 !important; }
</style>"""
"""Plotly draws the axes of parallel coordinates in black on any page."""
Show = Callable[[Tracking, StudyRuns], None]
PAGES: dict[str, tuple[str, str, Show]] = {
    "study": ("Study", ":material/leaderboard:", page_study.show),
    "lambda": ("Lambda", ":material/grid_on:", page_lambda.show),
    "compare": ("Compare", ":material/balance:", page_compare.show),
    "export": ("Export", ":material/download:", page_export.show),
}


@dataclass(frozen=True)
class Chosen:
    """What a reader has chosen beside the pages."""

    tracked: Tracking
    experiment: Experiment
    following: bool


def show() -> None:
    st.set_page_config(page_title="kd_hpo", page_icon=ICON, layout="wide")
    st.html(STYLE)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        st.error("There is no MLflow to read: start with `kd-hpo ui`, or set MLFLOW_TRACKING_URI to a server or database.")
        return
    with _told(uri):
        chosen = _sidebar(tracking(uri))  # here, not on a page: what is chosen stays when another page is opened
        if chosen is None:
            st.info("MLflow holds no study yet. Start one with `kd-hpo run studies/digits.yaml`, then refresh the page.")
            return
        pages = [
            st.Page(partial(_page, chosen, title, show), title=title, icon=icon, url_path=path, default=path == "study")
            for path, (title, icon, show) in PAGES.items()
        ]
        st.navigation(pages, position="top").run()


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """What MLflow refuses is told on the page."""
    try:
        yield
    except UNREADABLE as error:
        st.error(in_streamlit(f"{refusal(uri, error)}. Check that it is there, then refresh the page."))


def _sidebar(tracked: Tracking) -> Chosen | None:
    studies = tracked.studies()
    if not studies:
        return None
    with st.sidebar:
        name = st.selectbox("Study", list(studies), **bound("study"), help="the newest comes first")
        if st.button("Read all again", icon=":material/refresh:", width="stretch", key="refresh"):
            tracked.forget()
            st.cache_data.clear()
            st.cache_resource.clear()
        about = f"reads MLflow every {REFRESH_S:g} s while a trial runs"
        following = st.toggle("Follow a running study", value=True, key="live", help=about)
        _links(str(studies[name].experiment_id))
    return Chosen(tracked, studies[name], following)


def _links(experiment: str) -> None:
    mlflow, optuna = os.environ.get("KD_HPO_MLFLOW_URL"), os.environ.get("KD_HPO_OPTUNA_URL")
    if mlflow:
        address = f"{mlflow}/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning"
        st.link_button("This study in MLflow", address, icon=":material/open_in_new:", width="stretch")
    if optuna:
        st.link_button("Optuna's own dashboard", optuna, icon=":material/open_in_new:", width="stretch")


def _page(chosen: Chosen, title: str, show: Show) -> None:
    tracked = chosen.tracked
    study = tracked.read(chosen.experiment)
    st.title(in_streamlit(study.name), anchor=False)
    just_read = [study]
    following = chosen.following and study.running and not st.session_state.get(page_lambda.PLAYING, False)

    def body() -> None:
        with _told(tracked.uri):  # a fragment runs by itself
            now = just_read.pop() if just_read else tracked.read(chosen.experiment)
            running = int((now.trials["state"] == "running").sum())
            state = f"{count(running, 'trial')} running" if running else ("ended" if now.ended else "no trial is running")
            told = f"{title} · {count(len(now.trials), 'trial')} · {state} · read at {pd.Timestamp.now():%H:%M:%S}"
            st.caption(in_streamlit(told))  # a time's colons would have the browser fetch emoji
            show(tracked, now)

    st.fragment(body, run_every=REFRESH_S if following else None)()
