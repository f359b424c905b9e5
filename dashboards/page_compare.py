"""The page that compares methods: means with their spread, every seed, and paired tests against any one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from kd_hpo.config.study import Compare
from kd_hpo.config.task import Goal
from kd_hpo.config.wording import one_line
from kd_hpo.dashboards import figures
from kd_hpo.dashboards.analysis import SCORES, tests
from kd_hpo.dashboards.parts import bound, chart, heading
from kd_hpo.dashboards.tracked import StudyRuns, Tracking
from kd_hpo.dashboards.words import count, plural
from kd_hpo.study.report.escaping import in_streamlit
from kd_hpo.study.report.sentences import what_it_came_to
from kd_hpo.study.report.words import capital
from kd_hpo.study.results.arms import Answer
from kd_hpo.study.store.export_file import ExportedAnswer

Scores = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Compared:
    """What the page compares: methods by their scores, which have their names in SCORES."""

    scores: Mapping[str, Scores]
    titles: Mapping[str, str]
    control: str | None
    notes: tuple[str, ...]
    margin: float = Compare().margin
    """How much of the metric a method may lose and still be called not worse."""


def show(tracked: Tracking, study: StudyRuns) -> None:
    found = _from_summary(tracked, study) or _from_trials(study)
    if not any(found.scores.values()):
        st.info(
            "No trial of the comparison has completed yet. It begins when the search has ended; what the search has found so far "
            "is on the page *Study*.",
            icon=":material/hourglass_empty:",
        )
        return
    for note in found.notes:
        st.info(note)
    goal = study.goal
    left, right = st.columns(2)
    by_words = {SCORES[name]: name for name in found.scores}
    label = f"{in_streamlit(capital(goal.name))} on"
    score = by_words[left.selectbox(label, list(by_words), **bound("score"), help="after the last epoch, if not said")]
    scores = {method: by_seed for method, by_seed in found.scores[score].items() if by_seed}
    names = sorted(scores, key=lambda method: (method != found.control, method))
    against = right.selectbox("Tested against", names, **bound("against"), help="the best control comes first")
    heading("Methods", "Mean and standard deviation over the seeds; every mark is a seed.")
    drawn = figures.methods(scores, found.titles, SCORES[score], goal)
    chart(drawn, "methods", f"{capital(goal.name)} of each method: mean, spread and seeds")
    heading(f"Against {in_streamlit(found.titles[against])}")
    _table(scores, found, against, goal)
    _seeds(scores, found)


def _table(scores: Scores, found: Compared, against: str, goal: Goal) -> None:
    tested = tests(scores, against, goal, found.margin)
    shown = tested.assign(
        method=[one_line(found.titles[str(method)]) for method in tested.index],
        score=[f"{row['mean']:.4f}" + (f" ± {row['deviation']:.4f}" if row["deviation"] == row["deviation"] else "")
                  for _, row in tested.iterrows()],
        verdict=[_verdict(row, goal) if method != against else "what is tested against" for method, row in tested.iterrows()],
    )[["method", "score", "seeds", "rank", "difference", "p_value", "p_holm", "not_worse", "verdict"]]  # fmt: skip
    by = f"by {in_streamlit(goal.name)}, mean over the seeds; 1 is the best"
    shape = {
        "method": st.column_config.TextColumn("method", pinned=True),
        "score": st.column_config.TextColumn("mean ± sd"),
        "rank": st.column_config.NumberColumn("rank", format="%.1f", help=by),
        "difference": st.column_config.NumberColumn("difference", format="%+.4f", help="mean over the seeds that both have"),
        "p_value": st.column_config.NumberColumn("p", format="%.4f", help="paired t-test, two-sided, not corrected"),
        "p_holm": st.column_config.NumberColumn("p (Holm)", format="%.4f", help="corrected for the number of methods"),
        "not_worse": st.column_config.TextColumn(
            "not worse", help=f"by {found.margin:g} or more: a paired t-test, one-sided at 5 %; a tie alone does not show that"
        ),
    }
    st.dataframe(shown, hide_index=True, column_config=shape, placeholder="–", key="tests", alt="Tests of methods")
    st.caption(
        "Paired t-test over the seeds that both methods have, two-sided; Holm's correction for the number of methods tested. "
        "No number where there are fewer than two shared seeds, or where all differences are the same."
    )
    st.download_button(
        "Download the table (CSV)",
        tested.to_csv().encode(),
        "methods.csv",
        "text/csv",
        on_click="ignore",
        icon=":material/download:",
    )


def _verdict(row: pd.Series, goal: Goal) -> str:
    if row["p_holm"] != row["p_holm"]:
        return "not tested"
    way = "better" if goal.worth(row["difference"]) > 0 else "worse"
    if row["p_holm"] < 0.05:
        return f"{way}, corrected p < .05"
    return f"{way}, p < .05 only uncorrected" if row["p_value"] < 0.05 else "no difference shown"


def _seeds(scores: Scores, found: Compared) -> None:
    with st.expander("Every seed"):
        frame = pd.DataFrame({one_line(found.titles[method]): pd.Series(dict(by_seed)) for method, by_seed in scores.items()}).T
        frame.columns = [f"seed {seed}" for seed in frame.columns]
        st.dataframe(
            frame,
            column_config={name: st.column_config.NumberColumn(format="%.4f") for name in frame.columns.astype(str)},
            key="seeds",
        )


def _from_summary(tracked: Tracking, study: StudyRuns) -> Compared | None:
    """The study's own comparison, which it logs when it has ended and opened the test split."""
    if study.summary is None:
        return None
    told: Any = _comparison(tracked, study.summary, str(study.trials["ended"].max()))
    if not told:
        return None
    rows = {row["method"]: {int(seed): scores for seed, scores in row["by_seed"].items()} for row in told["methods"]}
    scores = {name: {m: {seed: each[name] for seed, each in by.items()} for m, by in rows.items()} for name in SCORES}
    notes = [
        f"{in_streamlit(row['title'])}: {count(row['failed'], 'trial')} failed: {in_streamlit(row['failures'][0])}"
        for row in told["methods"]
        if row["failed"]
    ]
    known = {(method, seed) for method, by in rows.items() for seed in by}
    compared = study.trials[(study.trials["kind"] == "compare") & (study.trials["state"] == "completed")]
    later = [trial for trial, row in compared.iterrows() if (row["method"], int(row["seed"])) not in known]
    if later:
        notes.append(f"{count(len(later), 'trial')} completed since the test split was opened; they come in when the study ends.")
    titles = {row["method"]: row["title"] for row in told["methods"]}
    margin = told.get("margin", Compare().margin)  # earlier versions wrote none
    return Compared(scores, titles, told["best_control"], (*_answer(tracked, study), *notes), margin)


def _answer(tracked: Tracking, study: StudyRuns) -> list[str]:
    """What the search has come to, where it had arms."""
    export: Any = tracked.json_artifact(study.summary, "lambda.json") if study.summary else None
    if not (export or {}).get("answer"):
        return []
    told = ExportedAnswer.model_validate(export["answer"])
    ahead, error = (float("nan") if value is None else value for value in (told.ahead, told.error))
    answer = Answer(told.arm, told.seeds, ahead, error, told.learning, told.control)
    return [in_streamlit(" ".join(what_it_came_to(answer, study.goal)))]


@st.cache_data(max_entries=16, show_spinner=False)
def _comparison(_tracked: Tracking, run: str, stamp: str) -> Any:
    return _tracked.json_artifact(run, "comparison.json")


def _from_trials(study: StudyRuns) -> Compared:
    """What the trials that have completed so far reached on val."""
    trials = study.trials
    done = trials[(trials["kind"] == "compare") & (trials["state"] == "completed")].dropna(subset=["score", "seed"])
    scores = {
        str(method): {int(seed): float(value) for seed, value in zip(group["seed"], group["score"], strict=True)}
        for method, group in done.groupby("method", sort=False)
    }
    note = (
        "The test split has not been opened: the study does that once, when it has ended. These are "
        f"{in_streamlit(plural(study.goal.name))} on val of {count(len(done), 'completed trial')}; which methods are controls is "
        "not told before the end either."
    )
    return Compared({"val": scores}, {method: method for method in scores}, None, (note,))
