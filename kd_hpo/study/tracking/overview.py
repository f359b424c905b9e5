"""What MLflow shows of a study as a whole, from its start: its saved view, its description, the summary run."""

import time
from hashlib import sha256

from mlflow import MlflowClient
from mlflow.entities import Metric

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.store.folder import StudyFolder
from kd_hpo.study.tracking.best_student import register_best_student
from kd_hpo.study.tracking.descriptions import experiment_note, ranking_of, running_note, summary_note
from kd_hpo.study.tracking.runs import all_runs, write_summary
from kd_hpo.study.tracking.tracker import Ending
from kd_hpo.study.tracking.uri import NAME, tracking_uri

_NOTE, _WRITTEN = "mlflow.note.content", "kd.note"


def write_overview(study: StudyConfig, experiment: str, folder: StudyFolder, status: str, summary: str = "") -> None:
    """Writes the summary run, and the experiment's description, which names the best trial.

    status   of the summary run: RUNNING, KILLED or FINISHED
    summary  of a finished study, in Markdown
    """
    client, ranking = MlflowClient(tracking_uri(study)), ranking_of(study, folder)
    run = write_summary(study, experiment, folder, summary or running_note(ranking, experiment), status)
    describe_experiment(client, experiment, experiment_note(ranking, experiment, run))


def finish_overview(study: StudyConfig, experiment: str, folder: StudyFolder, ending: Ending) -> list[str]:
    """Writes the end of a study: its test scores, the best student as a model, the summary.

    Returns what could not be done, and why.
    """
    client, notes, model = MlflowClient(tracking_uri(study)), list[str](), None
    write_test_scores(client, experiment, folder, study.task.goal.on("test"))
    try:
        model = register_best_student(client, study, experiment, folder)
    except StudyError as error:
        notes.append(str(error))
    text = summary_note(ending, ranking_of(study, folder), experiment, model)
    write_overview(study, experiment, folder, "FINISHED", text)
    return notes


def describe_experiment(client: MlflowClient, experiment: str, text: str) -> None:
    """Writes the experiment's description, unless a person has written one."""
    tags = client.get_experiment(experiment).tags
    if tags.get(_NOTE) and _digest(tags[_NOTE]) != tags.get(_WRITTEN):
        return
    client.set_experiment_tag(experiment, _WRITTEN, _digest(text))
    client.set_experiment_tag(experiment, _NOTE, text)


def write_test_scores(client: MlflowClient, experiment: str, folder: StudyFolder, metric: str) -> None:
    """Writes what was reached on `test` after the last epoch as a metric of each run whose trial was tested, once."""
    trials = {folder.run_id(status.spec.id, NAME): status.spec.id for status in folder.statuses()}
    for run in all_runs(client, experiment):
        trial = trials.get(run.info.run_id)
        scores = folder.test_scores(trial) if trial and metric not in run.data.metrics else None
        if scores:
            # At step 0: MLflow draws bars where no metric has a later step, and lines of one point elsewhere.
            client.log_batch(run.info.run_id, metrics=[Metric(metric, scores.last, int(time.time() * 1000), 0)])


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
