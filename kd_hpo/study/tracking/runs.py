"""What MLflow holds of a study: an experiment is a study, its runs are the trials and one summary."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from PIL import Image

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Goal
from kd_hpo.config.weightings import Weighting
from kd_hpo.errors import StudyError
from kd_hpo.files import only_one_process
from kd_hpo.study.report.matrix import MatrixHistory, matrix_image, matrix_page
from kd_hpo.study.report.plots import settings_figure
from kd_hpo.study.results.standing import searched_points
from kd_hpo.study.store.folder import StudyFolder, TrialAbout, TrialSpec, TrialStatus
from kd_hpo.study.store.trial_log import LOG, read_log
from kd_hpo.study.tracking.descriptions import running_trial_note, trial_note
from kd_hpo.study.tracking.links import EXPERIMENTS_LINK, best_first_link
from kd_hpo.study.tracking.uri import given_uri, server_address, tracking_uri
from kd_hpo.trial.result import EpochRecord, Rows

LAMBDA, LAMBDA_BY_EPOCH = "lambda.json", "lambda_by_epoch.json"
"""Files of a trial's run: its learned matrix, which `kd-hpo apply` takes as it takes that of the summary, and every epoch's."""
MATRIX_SECTION = "weights_matrix"
"""Sorts behind outer/, train/, val/ and weights/ in MLflow's charts."""
T_SECTION = "weights_t_values"
"""How many standard errors the help of a pair stands above that of the middle one."""
_THUMBNAIL = 256
_MATRICES = 25
"""Of a longer trial, MLflow gets the matrix at about so many epochs, and its epochs in as many parts; at its end it gets all."""
_MOST_METRICS = 1000
"""Of a call."""
_MLFLOW_STATUS = {"running": "KILLED", "completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


def artifact_root(study: StudyConfig) -> Path:
    return study.runs / "mlflow-artifacts"


def open_experiment(study: StudyConfig) -> str:
    """Gives the id of the study's experiment, made if need be.

    It is known by the study's identity, whatever a person has called it since: where another study had the name first, or an
    experiment of this one was deleted, it gets a name of its own. One process at a time: two first users would destroy a fresh
    SQLite file. Raises StudyError where a database's driver is not installed.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # making the database is no news, and what fails is told in a line
    identity = StudyFolder.of(study).identity()
    with only_one_process(study.runs / ".mlflow.lock"):
        try:
            client = MlflowClient(tracking_uri(study))
        except ModuleNotFoundError as error:
            raise StudyError(f"tracking.uri is of a database whose driver is not installed ({error}); pip install it") from error
        found = client.search_experiments(filter_string=f"tags.`kd.identity` = '{identity}'")
        experiment = _fullest(client, found) if len(found) > 1 else found[0] if found else _made(client, study, identity)
        return str(experiment.experiment_id)


def _fullest(client: MlflowClient, found: Sequence[Experiment]) -> Experiment:
    """Of several of one study: a deleted one may have been restored, and one made by a call that had been given up."""
    return max(found, key=lambda each: (sum(1 for _ in all_runs(client, each.experiment_id)), each.creation_time))


def _made(client: MlflowClient, study: StudyConfig, identity: str) -> Experiment:
    """A new experiment under the first name that is free: MLflow keeps the names of deleted ones."""
    tags = {"kd.study": study.name, "kd.identity": identity}
    own = f"{study.name}-{identity[:8]}"
    names = chain([study.name, own], (f"{own}-{number}" for number in count(2)))
    while True:
        name = next(names)
        where = None if given_uri(study) else (artifact_root(study) / name).as_uri()
        try:
            return client.get_experiment(client.create_experiment(name, artifact_location=where, tags=tags))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise


class RunLog:
    """A run of MLflow that may be written again and again: what stands there already is not written twice.

    goal  of the study's task, whose metric every epoch has
    log   the file of what the trial's process printed, which the run gets at its end; None of what is no trial
    """

    def __init__(self, client: MlflowClient, experiment: str, run_id: str, goal: Goal, log: Path | None = None) -> None:
        self._client, self._experiment, self.run_id, self._goal, self._log = client, experiment, run_id, goal, log
        self._epochs = {int(m.step) for m in client.get_metric_history(run_id, goal.on("val"))}
        self._about: tuple[object, ...] = ()
        self._layers = PairLayers((), ())

    @property
    def every(self) -> int:
        return self._layers.every

    @classmethod
    def find_or_create(
        cls,
        client: MlflowClient,
        experiment: str,
        trial: str,
        identity: str,
        tags: Mapping[str, str],
        goal: Goal,
        log: Path | None = None,
    ) -> "RunLog":
        """Gives the run of the trial, running, made if need be. Any other run with its name goes.

        Such a run is of an earlier life, or made by a call that was carried out after it had been given up.
        """
        runs = client.search_runs([experiment], f"tags.`kd.trial` = '{trial}'", order_by=["attributes.start_time ASC"])
        own = [run.info.run_id for run in runs if run.data.tags.get("kd.identity") == identity]
        for run in runs:
            if run.info.run_id not in own[:1]:
                client.delete_run(run.info.run_id)
        if not own:
            tags = {"kd.trial": trial, "kd.identity": identity, "mlflow.source.name": "kd-hpo", **tags}
            return cls(client, experiment, client.create_run(experiment, run_name=trial, tags=tags).info.run_id, goal, log)
        client.update_run(own[0], status="RUNNING")
        client.log_batch(own[0], tags=[RunTag(name, value) for name, value in tags.items()])
        return cls(client, experiment, own[0], goal, log)

    def describe(self, about: TrialAbout | None, spec: TrialSpec, commit: str) -> None:
        """Writes, at the start of an attempt, the few settings that a person compares, the whole configuration, the data."""
        if self._about == (about, spec):
            return
        self._layers = layers_of(about)
        params = {"method": spec.method, "seed": spec.seed, **spec.settings}
        tags = {"mlflow.source.git.commit": commit} if commit else {}
        if about is not None:
            tags |= {f"kd.split.{name}": digest for name, digest in about.split_digests.items()}
            tags |= {f"kd.version.{name}": version for name, version in about.versions.items()}
            tags |= {"kd.teacher": about.teacher_digest, "kd.worker": about.worker}
        pairs = about is not None and bool(about.teacher_layers)
        tags["mlflow.note.content"] = running_trial_note(spec, self._experiment, self.run_id, pairs=pairs)
        self._client.log_batch(
            self.run_id,
            params=[Param(name, f"{value:.6g}" if isinstance(value, float) else str(value)) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        self._about = (about, spec)
        if about is None:
            return
        source = json.dumps({"data": about.config.data.model_dump(mode="json")})
        data = Dataset(name=about.data_name, digest=about.data_digest[:36], source_type="local", source=source)
        self._client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        self._client.log_text(self.run_id, yaml.safe_dump(about.config.model_dump(mode="json"), sort_keys=False), "config.yaml")
        shapes = {"teacher": about.teacher_layers, "student": about.student_layers}
        layers = {network: [layer.model_dump() for layer in of_network] for network, of_network in shapes.items()}
        self._client.log_text(self.run_id, json.dumps(layers), "layers.json")
        self._client.set_tag(self.run_id, "kd.weighting", about.config.weighting.kind)

    def log_epochs(
        self, records: Sequence[EpochRecord], times: Sequence[int], answered: Callable[[], None] = lambda: None
    ) -> None:
        """Logs the metrics of the epochs that MLflow lacks; at some of them, the matrix too.

        At each epoch that `every` divides, and at the last one here, every cell of it goes in one call with the metrics, and a
        picture for MLflow's step slider.

        times     when each epoch ended, in milliseconds: the same whenever it is logged, so that MLflow knows one that it has
        answered  is told of each call that has come back
        """
        waiting, layers = list[tuple[EpochRecord, list[Metric]]](), self._layers
        for record, at in zip(records, times, strict=False):  # a time may stand before its record does
            if record.epoch in self._epochs:
                continue
            shown = bool(record.weights) and (record.epoch % layers.every == 0 or record is records[-1])
            if record.weights and record.epoch == 1:  # MLflow's slider stands at 0 when a page opens
                self._log_picture(0, layers.start or record.weights, at)
            if shown:
                self._log_picture(record.epoch, record.weights, at)
                answered()
            values = record.metrics | (layers.shown(record) if shown else {})
            if sum(len(metrics) for _, metrics in waiting) + len(values) > _MOST_METRICS:
                self._log_metrics(waiting)
                answered()
            waiting.append((record, [Metric(name, value, at, record.epoch) for name, value in values.items()]))
        self._log_metrics(waiting)

    def _log_metrics(self, waiting: list[tuple[EpochRecord, list[Metric]]]) -> None:
        """After the pictures: an epoch that has its metrics has its picture."""
        if not waiting:
            return
        self._client.log_batch(
            self.run_id,
            metrics=[metric for _, metrics in waiting for metric in metrics],
            tags=[RunTag("mlflow.loggedImages", "true")] if any(record.weights for record, _ in waiting) else [],
        )
        self._epochs.update(record.epoch for record, _ in waiting)
        waiting.clear()

    def _log_picture(self, epoch: int, weights: Rows, at: int) -> None:
        """As `log_image`, which would give the picture another name, and MLflow one more, each time it is logged."""
        title = f"after epoch {epoch}" if epoch else "at the start"
        picture = Image.fromarray(matrix_image(title, *self._layers.names, weights, vmax=self._layers.largest))
        name = f"lambda+step+{epoch}+timestamp+{at}+{uuid.uuid5(uuid.UUID(self.run_id), str(epoch))}"
        with TemporaryDirectory() as folder:
            picture.save(Path(folder) / f"{name}.png", compress_level=1)
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            picture.save(Path(folder) / f"{name}+compressed.webp", method=0)  # a third of the time for a half more bytes
            self._client.log_artifacts(self.run_id, folder, "images")

    def finish(self, status: TrialStatus, records: Sequence[EpochRecord], export: str | None) -> None:
        """Writes the end, the log, and the matrix at every epoch as a page and JSON; a learned one as a file for `apply`."""
        if records and records[0].weights:
            self._client.log_text(self.run_id, matrix_page(status.spec.id, self._layers.history(records)), "lambda.html")
            self._client.log_text(self.run_id, json.dumps(self._layers.as_json(records)), LAMBDA_BY_EPOCH)
        if export:
            self._client.log_text(self.run_id, export, LAMBDA)
        if self._log is not None and self._log.is_file():
            self._client.log_text(self.run_id, read_log(self._log), LOG)
        state = "interrupted" if status.state == "running" else status.state
        about = trial_note(status, records, self._experiment, self.run_id, self._layers.names, self._goal)
        tags = {"kd.state": state, "mlflow.note.content": about}
        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        end_run(self._client, self.run_id, _MLFLOW_STATUS[status.state])


def end_run(client: MlflowClient, run_id: str, status: str) -> None:
    """Ends a run now, but no earlier than it began: a clock may have been set back, or be another machine's."""
    began = client.get_run(run_id).info.start_time
    client.set_terminated(run_id, status, end_time=max(int(time.time() * 1000), began))


class PairLayers:
    """The layers of a study's pairs, as MLflow shows them."""

    def __init__(self, teacher: Sequence[str], student: Sequence[str], *, start: Rows = (), epochs: int = 1) -> None:
        self.names = tuple(teacher), tuple(student)
        self.every = -(-epochs // _MATRICES)
        """How many epochs of the trial lie between two whose matrix is shown while it runs."""
        self.start = start
        """The weights before the first epoch, where they are others than after it."""
        self.largest = min(1.0, 8 / max(len(teacher) * len(student), 1))
        """The top of the pictures' colour scale, the same at every epoch and in every trial."""

    def shown(self, record: EpochRecord) -> dict[str, float]:
        """The weight of each pair and, unless they are too many for a call together, how well it is known."""
        few = 2 * len(self.names[0]) * len(self.names[1]) + len(record.metrics) <= _MOST_METRICS
        return self.cells(record.weights) | (self.cells(record.t_values, T_SECTION) if few else {})

    def cells(self, weights: Sequence[Sequence[float]], section: str = MATRIX_SECTION) -> dict[str, float]:
        """One metric a pair; the numbers keep layers in order of depth and names apart that MLflow cannot spell."""
        return {
            f"{section}/{t + 1:02d} {_spelled(teacher)} to {s + 1:02d} {_spelled(student)}": weights[t][s]
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
            "epochs": [
                {"epoch": r.epoch, "weights": r.weights, "scales": r.scales} | ({"t_values": r.t_values} if r.t_values else {})
                for r in records
            ],
        }


def write_summary(study: StudyConfig, experiment: str, folder: StudyFolder, text: str, status: str = "FINISHED") -> str:
    """Writes a run beside the trials: the comparison, the study's file, the export, the metric against each outer setting.

    text     in Markdown, for the run's description; its files are taken from the folder
    status   of the run: RUNNING while the study is on its way, KILLED where it was interrupted
    returns  the id of the run
    """
    client = MlflowClient(tracking_uri(study))
    tags = {"kd.study": study.name, "kd.kind": "summary"}
    goal = study.task.goal
    run = RunLog.find_or_create(client, experiment, "summary", folder.identity(), tags, goal)
    for method, points in searched_points(folder, goal).items() if status != "RUNNING" else ():  # drawn once: it takes a second
        client.log_figure(run.run_id, settings_figure(points, goal), f"outer_settings/{method}.png")
    files = [*(folder.comparison(suffix) for suffix in ("csv", "json", "png")), *folder.root.glob("repeats.*")]
    for file in (*files, folder.settings, folder.export):
        if file.is_file():
            client.log_artifact(run.run_id, str(file))
    client.log_batch(run.run_id, tags=[RunTag("mlflow.note.content", text)])
    if status != "RUNNING":
        end_run(client, run.run_id, status)
    return run.run_id


def experiment_link(study: StudyConfig, experiment: str | None) -> str:
    """The address that opens the study's runs, best first, in the model-training view: of its server, or of `kd-hpo ui`.

    experiment  None where MLflow has not answered yet: then the address is that of all experiments
    """
    server = server_address(given_uri(study)) or "http://127.0.0.1:5000"
    return f"{server}/{best_first_link(experiment) if experiment else EXPERIMENTS_LINK}"


def all_runs(client: MlflowClient, experiment: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def layers_of(about: TrialAbout | None) -> PairLayers:
    if about is None:
        return PairLayers((), ())
    teacher, student = (tuple(layer.name for layer in layers) for layers in (about.teacher_layers, about.student_layers))
    start = start_of(about.config.weighting, len(teacher), len(student))
    return PairLayers(teacher, student, start=start, epochs=about.config.training.epochs)


def start_of(weighting: Weighting, T: int, S: int) -> Rows:
    """The (T, S) weights that learning starts from; empty where nothing is learned."""
    if not (learning := weighting.learning):
        return ()
    start = learning.start or ((1.0,) * S,) * T
    total = sum(map(sum, start))
    return tuple(tuple(weight / total for weight in row) for row in start)


def mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    return [[sum(cells) / len(cells) for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def _spelled(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)
