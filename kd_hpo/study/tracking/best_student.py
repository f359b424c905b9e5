"""The study's best student as a model in MLflow, registered under the study's name: a traced graph, which runs without kd_hpo.

The format is torch's `pt2`, which MLflow checks before it is loaded: neither pickles nor code of the user's travel in it.
"""

import shutil
import warnings
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pytorch
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.nets.weights import load_weights
from kd_hpo.study.design.trials import trial_config
from kd_hpo.study.report.escaping import in_code
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from kd_hpo.study.tracking.descriptions import ranking_of
from kd_hpo.study.tracking.links import run_link
from kd_hpo.study.tracking.uri import NAME
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared, build

ALIAS = "best"
_TRIAL, _WEIGHTS, _IDENTITY = "kd.trial", "kd.weights", "kd.identity"


class Classifier(nn.Module):
    """A student as a person uses it: images (B, C, H, W), floats in [0, 1] -> logits (B, K).

    mean, std  of the student's training images, whose levels are 0 to 255: (C, 1, 1)
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, nn.Buffer(mean), nn.Buffer(std)

    def forward(self, images: Tensor) -> Tensor:
        output = self.network((images * 255 - self.mean) / self.std)
        logits: Tensor = output[0] if isinstance(output, tuple) else output
        return logits


def model_folder(folder: StudyFolder) -> Path:
    """The folder of the best student in MLflow's format: `mlflow.pytorch.load_model` reads it without a server too."""
    return folder.root / "best_student"


def export_best_student(study: StudyConfig, folder: StudyFolder, prepared: Prepared) -> None:
    """Writes the student of the best trial as a model; one of the same weights is kept.

    Raises StudyError where torch cannot trace the network; no other model is left in its place then.
    """
    best, made = ranking_of(study, folder).best, model_folder(folder)
    if best is None:
        return
    weights = folder.trial(best.spec.id) / LAST_WEIGHTS
    digest = sha256(weights.read_bytes()).hexdigest()
    if made.is_dir() and exported(folder)[_WEIGHTS] == digest:
        return
    shutil.rmtree(made, ignore_errors=True)
    with TemporaryDirectory(prefix=".best_student.", dir=folder.root) as part:
        student, about = trial_student(study, best.spec, weights, prepared), {_TRIAL: best.spec.id, _WEIGHTS: digest}
        save_student(student, prepared.batches.input_shape, Path(part) / "model", about)
        (Path(part) / "model").rename(made)


def exported(folder: StudyFolder) -> dict[str, str]:
    """The trial and the weights of the model that stands in the folder."""
    return dict(Model.load(str(model_folder(folder))).metadata or {})


def register_best_student(client: MlflowClient, study: StudyConfig, experiment: str, folder: StudyFolder) -> str | None:
    """Logs the exported student as a model of its trial's run and registers it under the study's name; None without one.

    It may be cut off and called again: a model of the same weights is neither logged nor registered twice, and one that was
    deleted is there again.
    Raises StudyError where the registry has a model of the name that is not the study's.
    """
    if not model_folder(folder).is_dir():
        return None
    about = exported(folder)
    trial = about[_TRIAL]
    status, run = folder.status(trial), folder.run_id(trial, NAME)
    if status is None or run is None:
        return None
    known = registered_model(client, study, folder.identity())
    goal = study.task.goal
    reached = {goal.on("val"): folder.records(trial)[-1].metrics[goal.on("val")]}
    if scores := folder.test_scores(trial):
        reached[goal.on("test")] = scores.last
    params = {"method": status.spec.method, "seed": str(status.spec.seed)}
    params |= {name: f"{value:.4f}" for name, value in reached.items()}
    model = logged_model(client, experiment, run, {"kd.study": study.name, **about}, params, model_folder(folder))
    if known:
        versions = client.search_model_versions(f"name = '{study.name}'")
        if there := next((version.version for version in versions if version.source == model.artifact_location), None):
            if str(known.aliases.get(ALIAS)) != str(there):
                client.set_registered_model_alias(study.name, ALIAS, there)
            return study.name
    told = ", ".join(f"{name} {value:.4f}" for name, value in reached.items())
    if known is None:
        description = f"The best student of study {study.name}: images in [0, 1], (B, C, H, W), to logits (B, K)."
        tags = {"kd.study": study.name, _IDENTITY: folder.identity()}
        client.create_registered_model(study.name, tags=tags, description=description)
    version = client.create_model_version(
        study.name,
        source=model.artifact_location,
        run_id=run,
        model_id=model.model_id,
        tags=about,
        description=f"Student {in_code(study.student.network.name)} of trial [{trial}]({run_link(experiment, run)}): {told}.",
    )
    client.set_registered_model_alias(study.name, ALIAS, version.version)
    return study.name


def logged_model(
    client: MlflowClient, experiment: str, run: str, tags: dict[str, str], params: dict[str, str], files: Path
) -> LoggedModel:
    for model in client.search_logged_models([experiment]):
        if model.tags.get(_WEIGHTS) == tags[_WEIGHTS] and model.status == LoggedModelStatus.READY:
            return model
    model = client.create_logged_model(
        experiment, name="best_student", source_run_id=run, tags=tags, params=params, model_type="classifier"
    )
    client.log_model_artifacts(model.model_id, str(files))
    client.log_outputs(run, models=[LoggedModelOutput(model.model_id, step=0)])
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def registered_model(client: MlflowClient, study: StudyConfig, identity: str) -> RegisteredModel | None:
    """The study's model in MLflow's registry. Raises StudyError where the registry has one of the name that is another's."""
    try:
        found = client.get_registered_model(study.name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None
    if found.tags.get(_IDENTITY) != identity:
        raise StudyError(
            f"the best student is not registered: MLflow's registry has a model {study.name!r} already, which this study has "
            "not made; give the study another name"
        )
    return found


def trial_student(study: StudyConfig, spec: TrialSpec, weights: Path, prepared: Prepared) -> Classifier:
    config, batches = trial_config(study, spec), prepared.batches
    network = build(config.student.network, batches, prepared.task, seed=config.seed)
    load_weights(network, weights)
    return Classifier(network.cpu(), batches.mean.cpu(), batches.std.cpu()).eval()


def save_student(student: nn.Module, shape: tuple[int, int, int], folder: Path, about: dict[str, str]) -> None:
    """Saves a student in MLflow's format, with a signature whose batch is free.

    Its example is two grey images: no image of the data leaves it.

    shape  (C, H, W)
    about  what stands in the model's metadata
    Raises StudyError where torch cannot trace the network.
    """
    example = np.full((2, *shape), 0.5, dtype=np.float32)
    with torch.no_grad():
        classes = student(torch.from_numpy(example)).shape[1]
    kind = np.dtype("float32")
    signature = ModelSignature(inputs=Schema([TensorSpec(kind, (-1, *shape))]), outputs=Schema([TensorSpec(kind, (-1, classes))]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mlflow.pytorch.save_model(
                student,
                str(folder),
                signature=signature,
                input_example=example,
                serialization_format="pt2",
                metadata=about,
                pip_requirements=[f"torch=={version('torch')}", f"mlflow=={version('mlflow')}", f"numpy=={version('numpy')}"],
            )
    except MlflowException:
        raise
    except Exception as error:  # torch raises errors of many kinds at what it cannot trace
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError(f"the best student is not in MLflow: torch.export cannot trace it ({first})") from error
