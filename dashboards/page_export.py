"""The page that exports: choose learned matrices, look at them, download one JSON file, and the command that applies it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from pydantic import ValidationError

from kd_hpo.dashboards.matrices import Layer, Matrices
from kd_hpo.dashboards.matrix_figures import heatmap
from kd_hpo.dashboards.parts import bound, chart, heading
from kd_hpo.dashboards.tracked import StudyRuns, Tracking
from kd_hpo.dashboards.words import count, digits_of
from kd_hpo.study.matrices.export import export_of
from kd_hpo.study.report.escaping import in_streamlit
from kd_hpo.study.store.export_file import Export, ExportedMatrix
from kd_hpo.study.store.folder import TestScores


def show(tracked: Tracking, study: StudyRuns) -> None:
    trials = study.trials
    learned = trials[(trials["state"] == "completed") & trials["has_matrix"] & trials["learns"]]
    if learned.empty:
        st.info(
            "No trial has learned a matrix yet; each can be exported as soon as it has completed.",
            icon=":material/hourglass_empty:",
        )
        return
    by = f"{in_streamlit(study.goal.name)} on val after the last epoch"
    heading("Choose", f"Completed trials that have learned their matrix, best first by {by}.")
    ranked = [str(trial) for trial in study.best_first(learned).index]
    chosen = st.multiselect("Matrices", ranked, default=ranked[:1], **bound("export"))
    if not chosen:
        st.info("Choose a matrix.")
        return
    found = {trial: _exported(tracked, str(learned.loc[trial, "run"])) for trial in ranked if trial in chosen}
    matrices = [matrix for matrix in found.values() if matrix is not None]
    if missing := [trial for trial, matrix in found.items() if matrix is None]:
        st.warning(
            f"{in_streamlit(', '.join(missing))}: MLflow has no file to apply of this, since an earlier version logged it. "
            f"`kd-hpo export {study.name} --top 3` writes one from the study's folder."
        )
    if not matrices:
        _best_of_the_study(tracked, study)
        return
    export = export_of(study.name, _with_test_scores(tracked, study, matrices))
    _preview(export)
    _hand_out(study, export)


def _best_of_the_study(tracked: Tracking, study: StudyRuns) -> None:
    text = tracked.artifact(study.summary, "lambda.json") if study.summary else None
    if text is None:
        return
    st.markdown("The study's best matrix, which it exported when it ended, is here:")
    try:
        export = Export.model_validate_json(text)
    except ValidationError as error:
        said = in_streamlit(error.errors()[0]["msg"])
        st.error(f"lambda.json of the study's summary is not an export of this version: {said}.")
        return
    _preview(export)
    _hand_out(study, export)


@st.cache_resource(max_entries=4096, show_spinner="Reading the matrices ...")
def _exported(_tracked: Tracking, run: str) -> ExportedMatrix | None:
    """Of a trial that has completed, which does not change; None where it has learned none."""
    for name in ("lambda.json", "export.json"):  # as earlier versions called it, whose `lambda.json` was something else
        text = _tracked.artifact(run, name)
        if text and json.loads(text).get("kind") == Export.model_fields["kind"].default:
            return Export.model_validate_json(text).matrices[0]
    return None


def _with_test_scores(tracked: Tracking, study: StudyRuns, matrices: list[ExportedMatrix]) -> list[ExportedMatrix]:
    """The test split was opened after these trials had been logged; the summary has what came out."""
    told: Any = tracked.json_artifact(study.summary, "comparison.json") if study.summary else None
    scores = {
        (row["method"], int(seed)): TestScores(last=each["test"], best=each["test_best"])
        for row in (told["methods"] if told else [])
        for seed, each in row["by_seed"].items()
    }
    compared = set(study.trials.index[study.trials["kind"] == "compare"])
    return [
        matrix.replace(test=scores[matrix.method, matrix.seed])
        if matrix.trial in compared and (matrix.method, matrix.seed) in scores
        else matrix
        for matrix in matrices
    ]


def _preview(export: Export) -> None:
    heading(
        "Look",
        f"{count(len(export.matrices), 'matrix').replace('matrixs', 'matrices')}; `apply` uses the mean of its held epochs.",
    )
    titles = [f"{matrix.rank}. {matrix.trial}" for matrix in export.matrices]
    title = st.selectbox("Rank", titles, key="preview") if len(titles) > 1 else titles[0]
    matrix = export.matrices[titles.index(title)]
    left, right = st.columns([3, 2], gap="large")
    with left:
        teacher, student = (
            tuple(Layer(layer.name, layer.shape) for layer in layers) for layers in (matrix.teacher_layers, matrix.student_layers)
        )
        weights = np.array([matrix.held_mean])
        held = Matrices(matrix.trial, teacher, student, (1,), weights, (matrix.trial,))
        chart(heatmap(held, 1, float(weights.max())), "exported", f"The exported matrix of {matrix.trial}")
    with right:
        goal = matrix.config.task.goal
        facts = {
            "trial": f"{matrix.trial}, {matrix.method}, seed {matrix.seed}",
            f"{goal.name} on val": digits_of(matrix.metrics[goal.on("val")]),
            f"{goal.name} on test": digits_of(matrix.test.last) if matrix.test else "not measured for this trial",
            "teacher": f"{matrix.teacher.network}, {digits_of(matrix.teacher.val_accuracy)} on val",
            "student": matrix.student,
            "loss of the pairs": f"{matrix.pair_loss['name']}, strength {matrix.pair_loss['strength']:.4g}",
        }
        facts |= {
            name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in matrix.outer_settings.items()
        }
        st.dataframe(pd.Series(facts, name="value"), key="facts", alt="What was exported")
    with st.expander("The JSON"):
        st.code(export.model_dump_json(indent=1), language="json", height=420)


def _hand_out(study: StudyRuns, export: Export) -> None:
    heading("Take")
    file = Path(f"{study.name}-lambda.json").name
    st.download_button(
        f"Download {file}", export.model_dump_json(indent=1).encode(), file, "application/json",
        type="primary", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    st.markdown("Train a student with the best of them, or with another one:")
    commands = [f"kd-hpo apply {file}"] + [f"kd-hpo apply {file} --rank {m.rank}    # {m.trial}" for m in export.matrices[1:4]]
    st.code("\n".join(commands), language="bash")
