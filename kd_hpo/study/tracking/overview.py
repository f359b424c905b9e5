"""What MLflow shows of a study as a whole, from its start: saved views, the experiment's description, the summary on its way."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mlflow import MlflowClient
from mlflow.entities import Metric

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.design.trials import Searched
from kd_hpo.study.results.comparison import Comparison
from kd_hpo.study.results.standing import Learned
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.tracking.best_student import register_best_student
from kd_hpo.study.tracking.descriptions import experiment_note, ranking_of, running_note, summary_note
from kd_hpo.study.tracking.runs import write_summary
from kd_hpo.study.tracking.saved_views import TEST_METRIC, SavedView, saved_views
from kd_hpo.study.tracking.uri import tracking_uri

_NOTE, _WRITTEN = "mlflow.note.content", "kd.note"


@dataclass(frozen=True)
class Ending:
    """What a study has come to."""

    comparison: Comparison
    learned: Learned | None


def views_of(study: StudyConfig, searched: Mapping[str, Searched]) -> tuple[SavedView, ...]:
    """The study's saved views, about the method that it searches."""
    method = study.search.method
    settings = list(searched[method].space) if method in searched else []
    return saved_views(method, settings, study.training.epochs)


def write_views(client: MlflowClient, experiment: str, views: Sequence[SavedView]) -> None:
    for view in views:
        client.set_experiment_tag(experiment, *view.tag())


def write_overview(
    study: StudyConfig, experiment: str, folder: StudyFolder, views: Sequence[SavedView], status: str, summary: str = ""
) -> None:
    """The summary run, and the experiment's description, which names the best trial and leads to the views.

    status   of the summary run: RUNNING, KILLED or FINISHED
    summary  of a finished study, in Markdown
    """
    client, ranking = MlflowClient(tracking_uri(study)), ranking_of(folder)
    run = write_summary(study, experiment, folder, summary or running_note(ranking, experiment), status)
    describe_experiment(client, experiment, experiment_note(ranking, experiment, run, views))


def finish_overview(
    study: StudyConfig, experiment: str, folder: StudyFolder, views: Sequence[SavedView], ending: Ending
) -> list[str]:
    """The end of a study: its test scores, the best student as a model, the summary. Returns what could not be done, and why."""
    client, notes, model = MlflowClient(tracking_uri(study)), list[str](), None
    write_test_scores(client, folder)
    try:
        model = register_best_student(client, study, experiment, folder)
    except StudyError as error:
        notes.append(str(error))
    text = summary_note(ending.comparison, ending.learned, ranking_of(folder), experiment, model)
    write_overview(study, experiment, folder, views, "FINISHED", text)
    return notes


def describe_experiment(client: MlflowClient, experiment: str, text: str) -> None:
    """Writes the experiment's description, unless a person has written one."""
    tags = client.get_experiment(experiment).tags
    if tags.get(_NOTE) and _digest(tags[_NOTE]) != tags.get(_WRITTEN):
        return
    client.set_experiment_tag(experiment, _WRITTEN, _digest(text))
    client.set_experiment_tag(experiment, _NOTE, text)


def write_test_scores(client: MlflowClient, folder: StudyFolder) -> None:
    """Accuracy on `test` after the last epoch as a metric of each trial that was tested, once."""
    for status in folder.statuses():
        scores, run = folder.test_scores(status.spec.id), folder.run_id(status.spec.id, "mlflow")
        if scores and run and TEST_METRIC not in client.get_run(run).data.metrics:
            # At step 0: MLflow draws bars where no metric has a later step, and lines of one point elsewhere.
            client.log_batch(run, metrics=[Metric(TEST_METRIC, scores.last, int(time.time() * 1000), 0)])


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
