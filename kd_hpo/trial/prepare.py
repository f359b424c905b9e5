"""What every trial of a study shares, made once and kept in the cache: images, splits, the trained teacher, its features."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kd_hpo.config.trial import Data, Digits, ImageFolder, Network, SplitSizes, TorchvisionData, TrialConfig
from kd_hpo.core.plan import PairPlan
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.datasets import DATASETS, ImageSet
from kd_hpo.data.splits import Splits, make_splits
from kd_hpo.data.teacher_targets import TeacherTargets, teacher_targets
from kd_hpo.errors import ConfigError
from kd_hpo.nets.features import LOGITS, FeatureTap, layer_shapes
from kd_hpo.nets.zoo import build_network, load_weights, weights_digest
from kd_hpo.trial.teacher import TrainedTeacher, train_teacher

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    batches: ImageBatches
    splits: Splits
    teacher: TrainedTeacher
    teacher_digest: str
    targets: TeacherTargets

    @property
    def plan(self) -> PairPlan:
        return self.targets.plan


def choose_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch sees no CUDA device here; use device: cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_images(data: Data, cache: Path, progress: Progress) -> ImageSet:
    def counted(done: int, total: int) -> None:
        progress(f"decoding images: {done} of {total}")

    match data:
        case Digits():
            return DATASETS["digits"](cache)
        case ImageFolder(path=path, size=size):
            return DATASETS["image_folder"](cache, path, size=size, progress=counted)
        case TorchvisionData(name=name, root=root, download=download):
            return DATASETS["torchvision"](cache, name, root, download=download)


def split(images: ImageSet, sizes: SplitSizes) -> Splits:
    return make_splits(
        images.labels,
        images.test_start,
        train=sizes.train,
        outer=sizes.outer,
        val=sizes.val,
        test=sizes.test,
        seed=sizes.seed,
    )


def load_data(config: TrialConfig, cache: Path, progress: Progress) -> tuple[ImageBatches, Splits]:
    images = load_images(config.data, cache, progress)
    splits = split(images, config.splits)
    return ImageBatches(images, splits.train, choose_device(config.device)), splits


def build(network: Network, batches: ImageBatches, *, seed: int) -> nn.Module:
    classes = len(batches.images.classes)
    built = build_network(network.name, network.arguments, batches.input_shape, classes, seed=seed)
    return built.to(batches.device)


def student_tap(config: TrialConfig, batches: ImageBatches) -> FeatureTap:
    layers = (*config.student.layers, LOGITS) if config.pairs.logits == "inside" else config.student.layers
    return FeatureTap(build(config.student.network, batches, seed=config.seed), layers)


def prepare_teacher(
    config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path, progress: Progress
) -> TrainedTeacher:
    """The teacher with its weights: from its file, from the cache, or trained now and kept there."""
    network = build(config.teacher.network, batches, seed=config.teacher.seed)
    if config.teacher.weights is not None:
        load_weights(network, config.teacher.weights)
        return TrainedTeacher.measured(network, batches, splits.val)
    told = config.teacher.model_dump(mode="json", exclude={"layers", "weights"})
    identity = json.dumps([told, batches.images.digest, splits.digests["train"], splits.digests["extra"]], sort_keys=True)
    path = cache / f"teacher-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.safetensors"
    if path.is_file():
        load_weights(network, path)
        return TrainedTeacher.measured(network, batches, splits.val)
    return train_teacher(network, config.teacher, batches, splits, path, progress)


def prepare(config: TrialConfig, cache: Path, progress: Progress = lambda _: None) -> Prepared:
    """Makes, or finds in the cache, all that the trial reads. `progress` is told in words what is being made.

    Raises DataError, ConfigError or FeatureMismatch with what to change.
    """
    batches, splits = load_data(config, cache, progress)
    teacher = prepare_teacher(config, batches, splits, cache, progress)
    inside = config.pairs.logits == "inside"
    with student_tap(config, batches) as student:
        shapes = layer_shapes(student, batches.input_shape)
    with FeatureTap(teacher.network, (*config.teacher.layers, LOGITS) if inside else config.teacher.layers) as tap:
        progress("reading the teacher's features")
        targets = teacher_targets(tap, batches, splits.train, splits.outer, shapes, logits_pair=inside, cache=cache)
    return Prepared(batches, splits, teacher, weights_digest(teacher.network), targets)
