"""The page of a study: what its trials reached, when, with which outer settings, and how they ended."""

import numpy as np
import pandas as pd
import streamlit as st

from kd_hpo.config.task import Goal
from kd_hpo.config.wording import one_line
from kd_hpo.dashboards import figures
from kd_hpo.dashboards.analysis import TooFew, importance, varied
from kd_hpo.dashboards.parts import ALL, TEXT, bound, chart, dark, heading, more_once_drawn, wanted_now
from kd_hpo.dashboards.tracked import StudyRuns, Tracking
from kd_hpo.dashboards.words import count, digits_of, plain_note
from kd_hpo.study.report.escaping import in_streamlit
from kd_hpo.study.report.words import capital, duration

EVERY = "all methods"
MOST_CURVES = 10
MOST_TOLD = 10
"""Trials of the leaderboard, in a session's first pass."""
MOST_LINES = 100
"""Of the best trials, and of the others, in parallel coordinates: more cannot be told apart."""
QUIET_S = 600
"""A running trial that has not logged an epoch for so long may be dead."""


def show(tracked: Tracking, study: StudyRuns) -> None:
    trials = study.trials
    if trials.empty:
        st.info("No trial has begun. The page fills by itself when one does.", icon=":material/hourglass_empty:")
        return
    _tiles(trials, study.goal)
    _told(study)
    now = wanted_now()
    _leaderboard(study, best_alone=now == TEXT)
    if now == ALL:
        _figures(tracked, study)
    else:
        more_once_drawn()


def _figures(tracked: Tracking, study: StudyRuns) -> None:
    trials, name = study.trials, in_streamlit(capital(study.goal.name))
    left, right = st.columns(2, gap="large")
    with left:
        heading(f"{name} over time", "Each mark is a trial at its last epoch; the line is the best completed one so far.")
        if trials["score"].notna().any():
            told = f"{name} on val of each trial against the time since the study began"
            chart(figures.over_time(trials, study.goal), "over_time", told)
        else:
            st.info("No epoch has been logged yet.")
    with right:
        heading("State of the trials", "Stopped: by the scheduler, since others were better. Failed: by an error, told below.")
        chart(figures.states(trials), "states", "How many trials of each method completed, were stopped, failed or still run")
    _outer_settings(study)
    _curves(tracked, study)
    _failures(trials)


def _tiles(trials: pd.DataFrame, goal: Goal) -> None:
    counts = trials["state"].value_counts()
    done = trials[trials["state"] == "completed"].dropna(subset=["score"])
    best = done["score"].map(goal.worth).idxmax() if len(done) else None
    ended = trials["reported"].max() if trials["reported"].notna().any() else trials["started"].max()
    tiles = [
        (f"Best {in_streamlit(goal.name)} on val", digits_of(goal.best(done["score"])), str(best) if best else None),
        ("Trials", f"{len(trials):,}", None),
        *((state.capitalize(), f"{counts.get(state, 0):,}", None) for state in ("completed", "stopped", "failed", "running")),
        ("Wall time", duration((ended - trials["started"].min()).total_seconds()), None),
    ]
    for column, (label, value, told) in zip(st.columns([2, 1.2, 1.2, 1.2, 1.2, 1.2, 2]), tiles, strict=True):
        column.metric(label, value, delta=one_line(told) if told else None, delta_color="off", delta_arrow="off", border=True)


def _told(study: StudyRuns) -> None:
    """What a person should know before the numbers."""
    running = study.trials[study.trials["state"] == "running"]
    if len(running):
        last = running[["started", "reported"]].max().max()
        quiet = (pd.Timestamp.now(tz="UTC") - last).total_seconds()
        if quiet > QUIET_S:
            st.warning(
                f"{count(len(running), 'trial')} said to be running, but none has logged an epoch for {duration(quiet)}. If the "
                f"study's process is gone, `kd-hpo resume {study.name}` goes on with it.",
                icon=":material/warning:",
            )
    interrupted = int((study.trials["state"] == "interrupted").sum())
    if interrupted:
        st.warning(f"{count(interrupted, 'trial')} interrupted: `kd-hpo resume {study.name}` goes on with what is left.")


def _leaderboard(study: StudyRuns, *, best_alone: bool) -> None:
    """best_alone  as plain text, which is there half a second before a grid of all"""
    name = in_streamlit(study.goal.name)
    heading("Leaderboard", f"By {name} on val after the last epoch; a click on a column's head sorts by it.")
    methods = [str(name) for name in study.trials["method"].unique()]
    left, right = st.columns([1, 2])
    method = left.selectbox("Method", [EVERY, *methods], **bound("method"))
    kinds = {"all": ["search", "race", "compare"], "search": ["search"], "race": ["race"], "comparison": ["compare"]}
    with right:
        kind = st.segmented_control("Trials of", list(kinds), default="all", required=True, **bound("kind"))
    chosen = study.trials[study.trials["kind"].isin(kinds[kind or "all"])]
    if method != EVERY:
        chosen = chosen[chosen["method"] == method]
    if chosen.empty:
        st.info("No trial of this choice has begun.")
        return
    chosen = study.best_first(chosen)
    if best_alone:
        st.markdown(_as_text(chosen.head(MOST_TOLD), study.goal))
        return
    ended = chosen["ended"].fillna(chosen["reported"])
    table = chosen[["method", "state", "score", "epoch", "seed"]].assign(
        minutes=(ended - chosen["started"]).dt.total_seconds() / 60
    )
    settings = study.settings.loc[chosen.index].dropna(axis="columns", how="all")
    table = table.join(settings.rename(columns=str)).reset_index()
    shape = {
        "trial": st.column_config.TextColumn("trial", pinned=True),
        "score": st.column_config.NumberColumn(study.goal.name, format="%.4f"),
        "epoch": st.column_config.NumberColumn("epoch", format="%d"),
        "seed": st.column_config.NumberColumn("seed", format="%d"),
        "minutes": st.column_config.NumberColumn("minutes", format="%.1f"),
    }
    shape |= {str(name): st.column_config.Column(one_line(str(name))) for name in settings}
    st.dataframe(table, hide_index=True, column_config=shape, placeholder="–", key="leaderboard", alt="Leaderboard")


def _as_text(trials: pd.DataFrame, goal: Goal) -> str:
    """A table in Markdown."""
    rows = [
        (in_streamlit(trial), in_streamlit(method), in_streamlit(state), in_streamlit(digits_of(reached)))
        for trial, method, state, reached in trials[["method", "state", "score"]].itertuples()
    ]
    head = ("trial", "method", "state", in_streamlit(goal.name))
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * 4, *rows])


def _outer_settings(study: StudyRuns) -> None:
    trials = study.trials
    by_method = trials[trials["kind"] == "search"].groupby("method", sort=False)["learns"]
    order = by_method.agg(["size", "any"]).sort_values(["size", "any"], ascending=False)
    searched = [str(name) for name in order.index]
    heading("Outer settings", "What the search chose for each trial, and what it made of it.")
    if not searched:
        st.info("This study has no search: its methods ran at the settings of its file.")
        return
    method = st.selectbox("Search of", searched, **bound("search"), help="the method with the most trials comes first")
    chosen = study.searched(method).dropna(subset=["score"])
    settings = study.settings.loc[chosen.index]
    names = varied(settings)
    if not names:
        named = f"{'an' if study.goal.name[0] in 'aeiou' else 'a'} {in_streamlit(study.goal.name)}"
        st.info(f"{count(len(chosen), 'trial')} of {in_streamlit(method)} with {named} so far; two that differ are needed.")
        return
    drag = st.toggle("Choose ranges by dragging", **bound("drag"), help="drawn by WebGL: slow without a graphics card")
    best_on_top = chosen.sort_values("score", ascending=study.goal.mode == "max")
    some = "" if drag or len(chosen) <= 2 * MOST_LINES else f": the best {MOST_LINES}, and as many evenly from the others"
    if some:
        others = np.linspace(0, len(chosen) - MOST_LINES - 1, MOST_LINES).astype(int)
        best_on_top = pd.concat([best_on_top.iloc[others], best_on_top.iloc[-MOST_LINES:]])
    how = "drag along an axis to choose a range, click it to choose all." if drag else "point at its end to see which it is."
    st.caption(f"{count(len(chosen), 'trial')}{some}. A line is a trial, its colour the {in_streamlit(study.goal.name)}; {how}")
    draw = figures.parallel if drag else figures.lines
    figure = draw(settings.loc[best_on_top.index, names], best_on_top["score"], study.goal, dark=dark())
    chart(figure, "parallel", "Parallel coordinates over the outer settings")
    completed = chosen[chosen["state"] == "completed"]
    heading(
        f"Importance of the outer settings of {in_streamlit(method)}",
        f"By Optuna (PED-ANOVA) over {count(len(completed), 'completed trial')}; the ranges are taken from what was sampled.",
    )
    try:
        shares = _importance(settings.loc[completed.index], completed["score"], study.goal)
    except TooFew as few:
        st.info(f"{few}.".capitalize())
        return
    chart(figures.importances(shares), "importance", "Importance of each outer setting")


@st.cache_data(max_entries=32, show_spinner="Importance of the outer settings ...")
def _importance(settings: pd.DataFrame, reached: pd.Series, goal: Goal) -> pd.Series:
    return importance(settings, reached, goal)


def _curves(tracked: Tracking, study: StudyRuns) -> None:
    name = in_streamlit(capital(study.goal.name))
    heading(f"{name} over the epochs", f"Of up to {MOST_CURVES} trials.")
    having = study.best_first(study.trials.dropna(subset=["score"]))
    if having.empty:
        st.info("No epoch has been logged yet.")
        return
    options = [str(trial) for trial in having.index]
    chosen = st.multiselect("Trials", options, default=options[:3], max_selections=MOST_CURVES, **bound("trials"))
    if not chosen:
        st.info("Choose a trial.")
        return
    metric = study.goal.on("val")
    come_to = having.loc[chosen, ["run", "epoch"]].itertuples(index=True)
    histories = {str(trial): _history(tracked, str(run), metric, int(epoch)) for trial, run, epoch in come_to}
    chart(figures.curves(histories, study.goal), "curves", f"{name} on val over the epochs of the chosen trials")


@st.cache_data(max_entries=512, show_spinner=False)
def _history(_tracked: Tracking, run: str, metric: str, epoch: int) -> pd.Series:
    """Read again when the trial has come further, to another epoch."""
    return _tracked.history(run, metric)


def _failures(trials: pd.DataFrame) -> None:
    failed = trials[trials["state"] == "failed"]
    if failed.empty:
        return
    heading("What failed", f"{count(len(failed), 'trial')}.")
    told = failed[["method", "note"]].assign(note=failed["note"].map(plain_note)).rename(columns={"note": "what it said"})
    shape = {"what it said": st.column_config.TextColumn(width="large")}
    st.dataframe(told.reset_index(), hide_index=True, column_config=shape, key="failures", alt="What failed trials said")
