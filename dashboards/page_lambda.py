"""The page of lambda: the matrix over the epochs, of one or two trials or methods, as cells, as ribbons, as lines, over seeds."""

import numpy as np
import pandas as pd
import streamlit as st

from kd_hpo.dashboards.analysis import agreement
from kd_hpo.dashboards.matrices import METHOD, Matrices, NoMatrix, choices, matrices, seeds
from kd_hpo.dashboards.matrix_figures import heatmap, stability, trajectories
from kd_hpo.dashboards.parts import bound, chart, heading
from kd_hpo.dashboards.ribbons import heaviest, ribbons
from kd_hpo.dashboards.tracked import StudyRuns, Tracking
from kd_hpo.dashboards.words import count, digits_of
from kd_hpo.study.report.escaping import in_streamlit

NOTHING = "nothing"
PLAYING = "playing"
_TICK_S = 0.8


def show(tracked: Tracking, study: StudyRuns) -> None:
    options = choices(study)
    if not options:
        st.info(
            "No trial has a matrix yet. A trial that has pairs of layers has one after its first epoch; methods such as `ce` and "
            "`kd` have none.",
            icon=":material/hourglass_empty:",
        )
        return
    first, second, top_pairs = st.columns([2, 2, 1])
    chosen = [first.selectbox("Matrix of", options, **bound("left"), help="a trial, or the mean of a method's seeds")]
    other = second.selectbox("Beside it", [NOTHING, *(option for option in options if option != chosen[0])], **bound("right"))
    top = int(top_pairs.number_input("Pairs in the charts", 1, 40, 8, **bound("pairs")))
    found = []
    for choice in [*chosen, *([other] if other != NOTHING else [])]:
        try:
            found.append(_matrices(tracked, study, choice, _stamp(study, choice)))
        except NoMatrix as nothing:
            st.warning(in_streamlit(f"{nothing}."))
    if not found:
        return
    _at_epoch(found)
    _trajectories(found, top)
    methods = [_method(study, choice) for choice in [*chosen, other] if choice != NOTHING]
    for method in dict.fromkeys(methods):
        _stability(tracked, study, method, top)


def _method(study: StudyRuns, choice: str) -> str:
    return choice.removeprefix(METHOD) if choice.startswith(METHOD) else str(study.trials.loc[choice, "method"])


def _stamp(study: StudyRuns, choice: str) -> tuple[object, ...]:
    """Changes when the matrices of the choice do."""
    trials, method = study.trials, choice.removeprefix(METHOD)
    concerned = trials[trials["method"] == method] if choice.startswith(METHOD) else trials[trials.index == choice]
    return study.experiment, *(f"{epoch} {state}" for epoch, state in zip(concerned["epoch"], concerned["state"], strict=True))


@st.cache_data(max_entries=64, show_spinner="Reading the matrices ...")
def _matrices(_tracked: Tracking, _study: StudyRuns, choice: str, stamp: tuple[object, ...]) -> Matrices:
    return matrices(_tracked, _study, choice)


@st.cache_data(max_entries=64, show_spinner="Reading the seeds ...")
def _seeds(_tracked: Tracking, _study: StudyRuns, method: str, stamp: tuple[object, ...]) -> list[Matrices]:
    return seeds(_tracked, _study, method)


def _at_epoch(found: list[Matrices]) -> None:
    """Cells and ribbons at one epoch, side by side; by itself while it plays, so that the rest of the page stands still."""
    playing = bool(st.session_state.get(PLAYING, False))
    st.fragment(_epoch_view, run_every=_TICK_S if playing else None)(found)


def _epoch_view(found: list[Matrices]) -> None:
    epochs = sorted({epoch for each in found for epoch in each.epochs})
    epoch = _epoch(epochs)
    largest = float(max(each.weights.max() for each in found))
    scale = max(heaviest(each) for each in found)
    for i, (column, each) in enumerate(zip(st.columns(len(found), gap="large"), found, strict=True)):
        with column:
            heading(in_streamlit(each.title), _caption(each, epoch))
            sides = [st.container()] * 2 if len(found) > 1 else st.columns([1, 1], gap="large")
            with sides[0]:
                chart(heatmap(each, epoch, largest), f"cells_{i}", f"The matrix of {each.title} after epoch {epoch}")
            with sides[1]:
                chart(ribbons(each, epoch, largest, scale), f"ribbons_{i}", f"The pairs of {each.title} after epoch {epoch}")
            with st.expander("The numbers"):
                st.dataframe(each.frame(epoch).round(4), key=f"numbers_{i}", alt=f"The matrix of {each.title}")


def _epoch(epochs: list[int]) -> int:
    """The slider, and a button that moves it by itself."""
    playing = bool(st.session_state.get(PLAYING, False))
    if "epoch" in st.session_state and st.session_state["epoch"] not in epochs:
        st.session_state["epoch"] = epochs[-1]
    if playing:
        now = st.session_state.get("epoch", epochs[-1])
        later = [epoch for epoch in epochs if epoch > now]
        if later:
            st.session_state["epoch"] = later[0]
        else:
            st.session_state[PLAYING] = False
            st.rerun(scope="app")
    button, slider = st.columns([1, 9], vertical_alignment="bottom")
    word, icon = ("Pause", ":material/pause:") if playing else ("Play", ":material/play_arrow:")
    if button.button(word, icon=icon, width="stretch", disabled=len(epochs) < 2, key="play"):
        st.session_state[PLAYING] = not playing
        st.rerun(scope="app")
    if len(epochs) < 2:
        slider.caption(f"Epoch {epochs[0]} is the only one so far.")
        return epochs[0]
    return int(slider.select_slider("After epoch", epochs, value=epochs[-1], **bound("epoch")))


def _caption(each: Matrices, epoch: int) -> str:
    t, s = np.unravel_index(int(each.at(epoch).argmax()), each.at(epoch).shape)
    told = f"Largest pair: {in_streamlit(each.pair_name((int(t), int(s))))}, {each.at(epoch).max():.3f}."
    weights = each.at(epoch)[each.at(epoch) > 0]
    told += f" The weight is spread as over {np.exp(-(weights * np.log(weights)).sum()):.1f} equal pairs."
    if not all(layer.shape for layer in (*each.teacher, *each.student)):
        told += " MLflow has no shapes of these layers: an earlier version logged the trial."
    return told


def _trajectories(found: list[Matrices], top: int) -> None:
    heading("Over the epochs", "The pairs that weigh most at the end.")
    for i, (column, each) in enumerate(zip(st.columns(len(found), gap="large"), found, strict=True)):
        with column:
            if len(each.epochs) < 2:
                st.info(f"{in_streamlit(each.title)} has one epoch so far.")
                continue
            st.markdown(f"**{in_streamlit(each.title)}**")
            chart(trajectories(each, top), f"trajectories_{i}", f"The largest pairs of {each.title} over the epochs")


def _stability(tracked: Tracking, study: StudyRuns, method: str, top: int) -> None:
    heading(f"Over the seeds of {in_streamlit(method)}")
    several = _seeds(tracked, study, method, _stamp(study, METHOD + method))
    if len(several) < 2:
        st.info(
            f"{count(len(several), 'completed trial')} of {in_streamlit(method)} in the comparison; two seeds or more are needed."
        )
        return
    if len({(one.teacher, one.student) for one in several}) > 1:
        st.info(f"The seeds of {in_streamlit(method)} have different layers.")
        return
    last = [one.weights[-1] for one in several]
    firsts = pd.Series([one.pair_name(one.pairs[0]) for one in several]).value_counts()
    same = agreement([weights.ravel() for weights in last])
    st.caption(
        f"{in_streamlit(firsts.index[0])} is the largest pair of {firsts.iloc[0]} of {count(len(several), 'seed')}. "
        f"Rank correlation of two seeds' matrices: {digits_of(same, 2)} on average (Spearman, 1 is the same order)."
    )
    chart(stability(several, top), f"stability_{method}", f"The largest pairs of {method} at each seed")
