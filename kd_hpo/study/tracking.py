"""MLflow mirrors a study: an experiment is a study, its runs are the trials and one summary. Only this module imports it."""

import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from kd_hpo.config.pairs import LearnedWeights
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.trial import TrialConfig
from kd_hpo.core.plan import PairPlan
from kd_hpo.errors import ConfigError, StudyError
from kd_hpo.study.export import trial_export
from kd_hpo.study.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.layer_shapes import layer_shapes
from kd_hpo.study.pages import MatrixHistory, matrix_image, matrix_page, scatter_page
from kd_hpo.trial.prepare import Prepared
from kd_hpo.trial.result import EpochRecord, Rows

MATRIX_SECTION = "weights_matrix"
"""Sorts behind outer/, train/, val/ and weights/ in MLflow's charts."""
_MLFLOW_STATUS = {"running": "KILLED", "completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


def tracking_uri(study: StudyConfig) -> str:
    return study.tracking.uri or f"sqlite:///{study.runs / 'mlflow.db'}"


def artifact_root(study: StudyConfig) -> Path:
    return study.runs / "mlflow-artifacts"


@contextmanager
def mlflow_answering(study: StudyConfig) -> Iterator[None]:
    """Raises StudyError where MLflow does not do what it is asked."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        first = str(error).strip().splitlines()[0]
        where = "tracking.uri" if study.tracking.uri else str(study.runs / "mlflow.db")
        raise StudyError(f"MLflow does not work at {where}: {first}. The study's own folder is kept; see tracking.uri") from error


def open_experiment(study: StudyConfig) -> str:
    """The id of the study's experiment, made if need be. The driver calls this before any trial starts: two first users
    at once would destroy a fresh SQLite file."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # making the database is no news
    client = MlflowClient(tracking_uri(study))
    found = client.get_experiment_by_name(study.name)
    if found is not None:
        return str(found.experiment_id)
    where = None if study.tracking.uri else (artifact_root(study) / study.name).as_uri()
    return str(client.create_experiment(study.name, artifact_location=where, tags={"kd.study": study.name}))


class RunLog:
    """One MLflow run that may be written again and again: what stands there already is not written twice."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id = client, run_id
        self._epochs = {int(m.step) for m in client.get_metric_history(run_id, "val/accuracy")}

    @classmethod
    def find_or_create(cls, client: MlflowClient, experiment: str, trial: str, tags: Mapping[str, str]) -> "RunLog":
        """The run whose tag kd.trial is `trial`, running."""
        runs = client.search_runs([experiment], filter_string=f"tags.`kd.trial` = '{trial}'", max_results=1)
        if runs:
            run_id = runs[0].info.run_id
            client.update_run(run_id, status="RUNNING")
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
            return cls(client, run_id)
        run = client.create_run(experiment, run_name=trial, tags={"kd.trial": trial, "mlflow.source.name": "kd-hpo", **tags})
        return cls(client, run.info.run_id)

    def describe(self, config: TrialConfig | None, spec: TrialSpec, prepared: Prepared, commit: str) -> None:
        """Once, at the start: the few settings that a person compares, the whole configuration, what it was trained on."""
        params = {"method": spec.method, "seed": spec.seed, **spec.settings}
        tags = {f"kd.split.{name}": digest for name, digest in prepared.splits.digests.items()}
        tags |= {f"kd.version.{name}": version(name) for name in ("kd_hpo", "torch", "ray", "optuna", "mlflow")}
        tags |= {"kd.teacher": prepared.teacher_digest} | ({"mlflow.source.git.commit": commit} if commit else {})
        self._client.log_batch(
            self.run_id,
            params=[Param(name, f"{value:.6g}" if isinstance(value, float) else str(value)) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        if config is None:
            return
        images = prepared.batches.images
        source = json.dumps({"data": config.data.model_dump(mode="json")})
        data = Dataset(name=images.name, digest=images.digest[:36], source_type="local", source=source)
        self._client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        self._client.log_text(self.run_id, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), "config.yaml")
        self._client.log_text(self.run_id, layer_shapes(prepared.plan), "layers.json")
        self._client.set_tag(self.run_id, "kd.weighting", config.weighting.kind)

    def log_epoch(self, record: EpochRecord, layers: "PairLayers") -> None:
        """The metrics, every cell of the matrix in one call with them, and the matrix as a picture of MLflow's step slider."""
        if record.epoch in self._epochs:
            return
        if record.weights:
            if record.epoch == 1:  # MLflow's slider stands at 0 when a page opens
                self._log_picture(0, layers.start or record.weights, layers)
            self._log_picture(record.epoch, record.weights, layers)
        now = int(time.time() * 1000)
        values = record.metrics | layers.cells(record.weights)  # last: an epoch that has them has its picture
        self._client.log_batch(self.run_id, metrics=[Metric(name, value, now, record.epoch) for name, value in values.items()])
        self._epochs.add(record.epoch)

    def _log_picture(self, epoch: int, weights: Rows, layers: "PairLayers") -> None:
        title = f"after epoch {epoch}" if epoch else "at the start"
        picture = matrix_image(title, *layers.names, weights, vmax=layers.largest)
        self._client.log_image(self.run_id, picture, key="lambda", step=epoch)

    def finish(self, status: TrialStatus, records: Sequence[EpochRecord], layers: "PairLayers", export: str | None) -> None:
        """The matrix at every epoch as a page and as JSON, for `kd-hpo apply` where it was learned, and the run's end."""
        if records and records[0].weights:
            self._client.log_text(self.run_id, matrix_page(status.spec.id, layers.history(records)), "lambda.html")
            self._client.log_text(self.run_id, json.dumps(layers.as_json(records)), "lambda.json")
        if export:
            self._client.log_text(self.run_id, export, "export.json")
        state = "interrupted" if status.state == "running" else status.state
        tags = {"kd.state": state, "mlflow.note.content": note(status, records)}
        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self._client.set_terminated(self.run_id, _MLFLOW_STATUS[status.state])


class PairLayers:
    """The layers of a study's pairs, as MLflow shows them."""

    def __init__(self, teacher: Sequence[str], student: Sequence[str], *, start_uniform: bool = False) -> None:
        self.names = tuple(teacher), tuple(student)
        row = (1 / (len(teacher) * len(student)),) * len(student) if start_uniform else ()
        self.start: Rows = (row,) * len(teacher) if start_uniform else ()
        """The weights before the first epoch, where they are uniform whatever comes after."""
        self.largest = min(1.0, 8 / max(len(teacher) * len(student), 1))
        """The top of the pictures' colour scale, the same at every epoch and in every trial."""

    def cells(self, weights: Sequence[Sequence[float]]) -> dict[str, float]:
        """One metric a pair; the numbers keep layers in order of depth and names apart that MLflow cannot spell."""
        return {
            f"{MATRIX_SECTION}/{t + 1:02d} {_spelled(teacher)} to {s + 1:02d} {_spelled(student)}": weights[t][s]
            for t, teacher in enumerate(self.names[0] if weights else ())
            for s, student in enumerate(self.names[1])
        }

    def history(self, records: Sequence[EpochRecord]) -> MatrixHistory:
        return MatrixHistory(*self.names, tuple(r.epoch for r in records), tuple(r.weights for r in records))

    def as_json(self, records: Sequence[EpochRecord]) -> dict[str, Any]:
        held = [r.epoch for r in records if r.held]
        return {
            "teacher_layers": self.names[0],
            "student_layers": self.names[1],
            "held_epochs": held,
            "held_mean": mean_matrix([r.weights for r in records if r.held]) if held else None,
            "epochs": [{"epoch": r.epoch, "weights": r.weights, "scales": r.scales} for r in records],
        }


class MlflowTracker:
    """Logs one trial in order, on a thread of its own: the trial never waits for MLflow.

    A trial that is started again continues its run. A tracker that fails does not stop the trial: it writes nothing more,
    `finish` says why, and the study's end writes what is missing from the trial's folder (`mirror`).
    """

    def __init__(
        self, study: StudyConfig, experiment: str, spec: TrialSpec, config: TrialConfig, prepared: Prepared, commit: str
    ) -> None:
        self._error: Exception | None = None
        self._layers, self._folder = layers_of(config, prepared.plan), StudyFolder.of(study)
        self._records: list[EpochRecord] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._run: RunLog | None = None

        def start() -> None:
            client = MlflowClient(tracking_uri(study))
            tags = trial_tags(study, spec) | {"kd.worker": f"{platform.node()}:{os.getpid()}"}
            self._run = RunLog.find_or_create(client, experiment, spec.id, tags)
            self._run.describe(config, spec, prepared, commit)
            self._folder.write_run_id(spec.id, self._run.run_id)

        self._soon(start)

    def log(self, record: EpochRecord) -> None:
        self._records.append(record)
        self._soon(lambda: self._open_run().log_epoch(record, self._layers))

    def finish(self, status: TrialStatus) -> Exception | None:
        """Waits until all is written; returns what went wrong, if anything did."""
        records = list(self._records)
        self._soon(lambda: self._open_run().finish(status, records, self._layers, trial_export(self._folder, status)))
        self._thread.shutdown(wait=True)
        return self._error

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _open_run(self) -> RunLog:
        assert self._run is not None  # `start` came first on the same thread, and after an error nothing is called
        return self._run

    def _soon(self, call: Callable[[], object]) -> None:
        def guarded() -> None:
            if self._error is None:
                try:
                    call()
                except Exception as error:  # whatever a tracking server does, the trial goes on
                    self._error = error

        self._thread.submit(guarded)


def mirror(
    study: StudyConfig,
    experiment: str,
    prepared: Prepared,
    config_of: Callable[[TrialSpec], TrialConfig],
    plan_of: Callable[[TrialConfig], PairPlan],
    commit: str,
) -> None:
    """Writes to MLflow what its runs lack of the study's folder, and ends every run whose trial is not running any more."""
    client, folder = MlflowClient(tracking_uri(study)), StudyFolder.of(study)
    ended = [run.data.tags for run in all_runs(client, experiment) if run.info.status != "RUNNING"]
    states = {tags.get("kd.trial"): tags.get("kd.state") for tags in ended}
    for status in folder.statuses():
        spec = status.spec
        if states.get(spec.id) == status.state != "running":
            continue
        try:
            config = config_of(spec)
        except ConfigError:  # the trial has failed for just that
            config = None
        run = RunLog.find_or_create(client, experiment, spec.id, trial_tags(study, spec))
        run.describe(config, spec, prepared, commit)
        folder.write_run_id(spec.id, run.run_id)
        records = folder.records(spec.id)
        layers = layers_of(config, plan_of(config)) if config and records else PairLayers((), ())
        for record in records:
            run.log_epoch(record, layers)
        run.finish(status, records, layers, trial_export(folder, status))


def write_summary(study: StudyConfig, experiment: str, folder: StudyFolder, comparison: str) -> None:
    """One more run, beside the trials: the comparison, the study's file, accuracy against each outer setting, the export.

    comparison  in Markdown, for the run's description; its files are taken from the folder
    """
    client = MlflowClient(tracking_uri(study))
    tags = {"kd.study": study.name, "kd.kind": "summary"}
    run = RunLog.find_or_create(client, experiment, "summary", tags)
    for method, points in searched_points(folder).items():
        title = f"{study.name}: accuracy on val against the outer settings of {method}"
        settings = dict.fromkeys(name for point in points for name in point if name not in ("trial", "state", "accuracy"))
        client.log_text(run.run_id, scatter_page(title, points, list(settings)), f"outer_settings/{method}.html")
    files = [folder.comparison(suffix) for suffix in ("csv", "json", "png")]
    for file in (*files, folder.settings, folder.export):
        if file.is_file():
            client.log_artifact(run.run_id, str(file))
    client.log_batch(run.run_id, tags=[RunTag("mlflow.note.content", comparison)])
    client.set_terminated(run.run_id, "FINISHED")


def searched_points(folder: StudyFolder) -> dict[str, list[dict[str, object]]]:
    """How each trial of each method's search ended, with its settings."""
    found: dict[str, list[dict[str, object]]] = {}
    for status in folder.statuses():
        if status.spec.kind == "search":
            records = folder.records(status.spec.id)
            point = {
                "trial": status.spec.id,
                "state": "stopped" if status.state == "running" else status.state,
                "accuracy": records[-1].metrics["val/accuracy"] if records else None,
            }
            found.setdefault(status.spec.method, []).append(point | status.spec.settings)
    return found


def experiment_link(study: StudyConfig, experiment: str) -> str:
    """The address that opens the experiment's charts in the model-training view: of the study's server, or of `kd-hpo ui`."""
    uri = tracking_uri(study)
    server = uri.rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"
    return f"{server}/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning"


def all_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def layers_of(config: TrialConfig, plan: PairPlan) -> PairLayers:
    teacher, student = ([layer.name for layer in layers] for layers in (plan.teacher, plan.student))
    return PairLayers(teacher, student, start_uniform=isinstance(config.weighting, LearnedWeights))


def trial_tags(study: StudyConfig, spec: TrialSpec) -> dict[str, str]:
    return {"kd.study": study.name, "kd.kind": spec.kind, "kd.method": spec.method, "kd.state": "running"}


def note(status: TrialStatus, records: Sequence[EpochRecord]) -> str:
    """Markdown for the run's description."""
    lines = [f"**{status.spec.method}**, seed {status.spec.seed}: {status.state} {status.message}".rstrip()]
    if records:
        best = max(records, key=lambda r: r.metrics["val/accuracy"])
        last = records[-1]
        lines.append(
            f"Accuracy on `val`: {last.metrics['val/accuracy']:.4f} after epoch {last.epoch}, "
            f"at best {best.metrics['val/accuracy']:.4f} after epoch {best.epoch}."
        )
    if records and records[0].weights:
        lines.append("The matrix over time: artifact `lambda.html`, or the image `lambda` with its step slider.")
    return "\n\n".join(lines)


def git_commit() -> str:
    """The commit of the current folder; empty outside a repository, or without git."""
    if shutil.which("git") is None:
        return ""
    told = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return told.stdout.strip() if told.returncode == 0 else ""


def mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    return [[sum(cells) / len(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def _spelled(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)
