"""The images that a trial reads, and their splits, from its settings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kd_hpo.callables import code_digest, modules_named
from kd_hpo.config.augment import Augment, mixes
from kd_hpo.config.data import EXTRA, DataKind, SplitSizes
from kd_hpo.config.normalise import MeanAndStd
from kd_hpo.config.trial import TrialConfig
from kd_hpo.data.augment import Augmentation, KeptViews, Step
from kd_hpo.data.batches import ImageBatches, Indices
from kd_hpo.data.datasets import ImageSet, read_data
from kd_hpo.data.images import few
from kd_hpo.data.normalise import Normalisation, of_unit_pixels
from kd_hpo.data.splits import Splits, make_splits
from kd_hpo.data.transforms import transform
from kd_hpo.data.unlabelled import drawn_of, load_unlabelled_folder
from kd_hpo.errors import ConfigError, DataError, Note

Progress = Callable[[str], None]


def steps_of(augment: Augment, batches: ImageBatches) -> list[Step]:
    """Makes the steps of random views of these images. Raises ConfigError for those that cannot be made."""
    shape, (mean, std) = batches.input_shape, (batches.mean, batches.std)
    return [step if isinstance(step, str) else transform(step.name, step.arguments, shape, mean, std) for step in augment]


def kept_views(config: TrialConfig, batches: ImageBatches) -> KeptViews | None:
    """Gives the views of the images that are drawn once, if any. Raises ConfigError for views that cannot be kept."""
    teacher, wrong = config.teacher, ""
    if not teacher.cached_views:
        return None
    if not config.augment:
        wrong = "augment is empty, so that an image has one view only"
    elif mixing := [str(step) for step in config.augment if mixes(step)]:
        wrong = f"augment has {mixing[0]}, which mixes the images of a batch"
    elif teacher.features == "online":
        wrong = "teacher.features is online"
    if wrong:
        raise ConfigError(f"teacher.cached_views is {teacher.cached_views}, and {wrong}; set it to 0, or change that")
    count, (_, height, width) = len(batches.images.labels), batches.input_shape
    steps = [step for step in steps_of(config.augment, batches) if isinstance(step, str | Augmentation)]
    return KeptViews(steps, teacher.cached_views, count, height, width, teacher.seed, names_of(config.augment))


def names_of(augment: Augment) -> list[object]:
    """What tells steps from others, in names of what was computed with them: their settings, and the code of a user's own."""
    told = [step if isinstance(step, str) else step.model_dump(mode="json") for step in augment]
    own = modules_named(told)
    return [*told, code_digest(own)] if own else [*told]


def choose_device(name: str) -> torch.device:
    """The device of a setting: auto takes CUDA where it is. Raises ConfigError where CUDA is asked for, and torch sees none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda was asked for, but torch sees no CUDA device here; use device: cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_images(data: DataKind, cache: Path, progress: Progress) -> ImageSet:
    fields = {name: getattr(data, name) for name in type(data).model_fields if name not in DataKind.model_fields}
    return read_data(data.kind, fields, cache, progress)


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
    batches = ImageBatches(
        images,
        splits.train,
        choose_device(config.device),
        normalisation=normalisation_of(config.data, images),
        precision=config.precision,
        channels_last=config.channels_last,
        workers=config.workers,
    )
    batches.views = kept_views(config, batches)
    remarks = config.task.remarks(dict(zip(images.classes, batches.class_counts.tolist(), strict=True)))
    for remark in (*remarks, *splits_without_classes(images, splits)):
        progress(Note(remark))
    return batches, splits


_SEEN = "so that agreement with it there may say less of a student than on images that are new to both"


def load_unlabelled(
    config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path, progress: Progress
) -> tuple[ImageBatches, Indices] | None:
    """The images of `data.unlabelled`, as batches that are normalised as the data's are, and which of them; None without.

    Raises DataError where there are none, or none that are like the data's.
    """
    data, seed = config.data, config.splits.seed
    if data.unlabelled is None:
        return None
    if data.unlabelled == EXTRA:
        if not len(splits.extra):
            raise DataError(
                "data.unlabelled is extra, the images that no split holds, and there is none: the splits take all; give "
                "splits.train a smaller number, or data.unlabelled a folder"
            )
        teacher = config.teacher
        if teacher.images == "train_and_extra" and teacher.training is not None and teacher.weights is None:
            progress(Note(f"the teacher is trained on the unlabelled images (teacher.images), {_SEEN}"))
        return batches, drawn_of(splits.extra, data.unlabelled_images, seed, progress)
    images = load_unlabelled_folder(
        cache,
        data.unlabelled,
        batches.images,
        size=getattr(data, "size", None),
        most=data.unlabelled_images,
        seed=seed,
        progress=progress,
    )
    every = np.arange(len(images.labels))
    alike = ImageBatches(
        images,
        every,
        batches.device,
        normalisation=batches.normalisation,
        precision=config.precision,
        channels_last=config.channels_last,
        workers=config.workers,
    )
    return alike, every


def splits_without_classes(images: ImageSet, splits: Splits) -> list[str]:
    """Tells of splits that have no image of some classes, in one line at most; test stays closed."""
    told = []
    for name, chosen in {"train": splits.train, "outer": splits.outer, "val": splits.val}.items():
        counts = np.bincount(images.labels[chosen], minlength=len(images.classes))
        if absent := [label for label, count in zip(images.classes, counts, strict=True) if not count]:
            told.append(f"{name} has no image of {few(absent, 3)}")
    return ["; ".join(told)] if told else []


def normalisation_of(data: DataKind, images: ImageSet) -> Normalisation | None:
    """The normalisation that `data.normalise` names, None for the train split's. Raises ConfigError where it does not fit."""
    channels = images.images.shape[1]
    if isinstance(data.normalise, MeanAndStd):
        return of_unit_pixels("given", data.normalise.mean, data.normalise.std, channels)
    return of_unit_pixels("none", 0.0, 1.0, channels) if data.normalise == "none" else None
