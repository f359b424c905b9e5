"""The parts that a trial reads: images, splits, networks, the teacher's features; made once, kept in the cache, and shared."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from kd_hpo.config.augment import in_words
from kd_hpo.config.trial import Network, Teacher, TrialConfig
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.plan import PairPlan, pair_plan
from kd_hpo.core.tasks import Task, task
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.normalise import Normalisation, OwnInput, reading, require_hooks
from kd_hpo.data.remote import on_disk
from kd_hpo.data.splits import Splits, outer_in_train, split_digest
from kd_hpo.data.teacher_targets import TeacherReader, TeacherTargets, cached_bytes, cached_targets, teacher_reader
from kd_hpo.errors import ConfigError, Note, about
from kd_hpo.files import digest
from kd_hpo.nets.features import LOGITS, FeatureTap, freeze, layer_shapes
from kd_hpo.nets.layer_names import resolve_layers
from kd_hpo.nets.weights import load_weights, weights_digest
from kd_hpo.nets.zoo import build_network
from kd_hpo.trial.agreement import Opinion
from kd_hpo.trial.evaluate import Score
from kd_hpo.trial.given_teacher import Judge, is_given, logarithm, of_logarithm
from kd_hpo.trial.teacher import TrainedTeacher, trained_teacher
from kd_hpo.trial.teacher_input import reads_as_its_weights, size_of_input, teacher_normalisation, with_size

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """What trials of the same data, teacher and layers may share."""

    task: Task
    batches: ImageBatches
    splits: Splits
    teacher: TrainedTeacher
    teacher_digest: str
    targets: TeacherTargets
    cache: Path
    """Where all that is kept, and what the trial's own files are fetched to."""
    opinions: Mapping[str, Opinion] = field(default_factory=dict)
    """What the study's own teacher says of the images that the student's agreement with it is recorded on, by their name: `val`,
    and `unlabelled` where there are such. Also where an assistant teaches: a weak one is easy to agree with."""

    @property
    def plan(self) -> PairPlan:
        return self.targets.plan

    @property
    def split_digests(self) -> dict[str, str]:
        """What stands for the images of each split, and for the unlabelled ones, where there are such."""
        digests = dict(self.splits.digests)
        if unlabelled := self.opinions.get("unlabelled"):
            digests["unlabelled"] = digest(unlabelled.batches.images.digest, split_digest(unlabelled.images))[:16]
        return digests


def prepared_parts(
    config: TrialConfig,
    batches: ImageBatches,
    splits: Splits,
    cache: Path,
    progress: Progress,
    *,
    outer_trains: bool = False,
) -> Prepared:
    """Prepares a trial without assistants: its teacher is trained, or found, and its features are read.

    outer_trains  the outer split's images train the student too, of a teacher who has not been trained on them
    """
    online = reads_online(config)
    plan = plan_before_training(config, batches, cache)  # layers that do not exist are told before anything is trained
    teacher = prepare_teacher(config, batches, splits, cache, progress)
    progress("reading the teacher's features")
    reader = reader_of(config, teacher.network, plan, batches, splits, cache)
    if outer_trains:
        splits = outer_in_train(splits)
    targets = reader if online else targets_in_bounds(config.teacher, reader, splits, cache, progress)
    return Prepared(task_of(config, batches), batches, splits, teacher, weights_digest(teacher.network), targets, cache)


def reader_of(
    config: TrialConfig,
    teacher: nn.Module,
    plan: PairPlan,
    batches: ImageBatches,
    splits: Splits,
    cache: Path,
    *,
    as_they_are: bool = False,
) -> TeacherReader:
    """Gives what reads the teacher's layers of the plan; `as_they_are`, also where the loss wants them standardised."""
    loss = pair_loss(config.pairs.loss.kind, **config.pairs.loss.arguments())
    return teacher_reader(
        teacher,
        [layer.name for layer in plan.teacher],
        batches,
        splits.train,
        plan.student,
        logits_pair=config.pairs.logits == "inside",
        meet=loss.meet,
        standardised=loss.standardised and not as_they_are,
        cache=cache,
    )


def task_of(config: TrialConfig, batches: ImageBatches) -> Task:
    """The task of the trial, with the weights of the classes as numbers."""
    settings, counts = config.task.model_dump(exclude={"kind"}), batches.class_counts
    if settings["class_weights"] in ("none", "balanced"):
        even = counts.sum() / (len(counts) * np.maximum(counts, 1))  # that of a class without an image is never asked for
        settings["class_weights"] = even.tolist() if settings["class_weights"] == "balanced" else None
    return task(config.task.kind, classes=len(batches.images.classes), **settings)


def targets_in_bounds(teacher: Teacher, reader: TeacherReader, splits: Splits, cache: Path, progress: Progress) -> TeacherTargets:
    """Gives targets cached within `teacher.cache_gb`, else read on line. Raises ConfigError where they have to be cached."""
    batches = reader.batches
    views = range(batches.views.count if batches.views else 1)
    images = np.concatenate([*(batches.viewed(splits.train, number) for number in views), splits.outer])
    size = cached_bytes(reader, images, teacher.cache_precision) / 1e9
    what = f"the teacher's features of {len(splits.train)} training images"
    what += f" in {len(views)} views each" if batches.views else ""
    if size > teacher.cache_gb:
        take = f"{what} take {size:.1f} GB, more than teacher.cache_gb: {teacher.cache_gb:g}"
        if teacher.features == "cached":
            raise ConfigError(f"{take}; raise it, set teacher.cache_precision: bfloat16, or teacher.features: online")
        progress(f"{take}, and are read on line")
        return reader
    if size:
        progress(f"{what} take {f'{size:.1f} GB' if size >= 1 else f'{1000 * size:.2g} MB'} in the cache")
    return cached_targets(reader, images, cache, teacher.cache_precision, progress)


def plan_before_training(config: TrialConfig, batches: ImageBatches, cache: Path) -> PairPlan:
    """The plan of the trial's pairs as far as untrained networks tell it: with the teacher's channels that never vary.

    Raises ConfigError or FeatureMismatch for networks and layers that do not exist.
    """
    return teacher_and_plan(config, batches, cache)[1]


def teacher_and_plan(
    config: TrialConfig, batches: ImageBatches, cache: Path, tell: Progress = lambda _: None
) -> tuple[nn.Module, PairPlan]:
    """The trial's teacher before anything is trained, with its weights where it has a file of them, and the plan of the pairs."""
    whose, teacher = ("assistant", config.assistants[-1]) if config.assistants else ("teacher", config.teacher)
    if config.assistants:
        network = build(teacher.network, batches, task_of(config, batches), seed=config.teacher.seed, tell=tell)
    else:
        network = build_teacher(config, batches, tell)[0]
    with about(whose), FeatureTap(network, layers_of(config, teacher.layers, network, batches)) as tap:
        shapes = layer_shapes(tap, batches.input_shape)
    if isinstance(teacher, Teacher) and teacher.weights is not None:
        load_weights_of(network, teacher.weights, teacher.weights_key, cache, tell)
    student = build_student(config, batches, cache, tell)
    with about("student"), FeatureTap(student, layers_of(config, config.student.layers, student, batches)) as tap:
        student_shapes = layer_shapes(tap, batches.input_shape)
    loss = pair_loss(config.pairs.loss.kind, **config.pairs.loss.arguments())
    return network, pair_plan(shapes, student_shapes, logits_pair=config.pairs.logits == "inside", meet=loss.meet)


def untrained_parts(
    config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path, tell: Progress = lambda _: None
) -> Prepared:
    """Prepares a trial with a teacher that is not trained, and whose features are read on line, as they are.

    The parts are otherwise those of `prepared_parts`.
    Raises as `plan_before_training` does, and ConfigError for weights that do not fit.
    """
    network, plan = teacher_and_plan(config, batches, cache, tell)
    targets = reader_of(config, freeze(network).eval(), plan, batches, splits, cache, as_they_are=True)
    teacher = TrainedTeacher(network, Score(0.0, {}, 0.0), None, batches.normalisation)
    return Prepared(task_of(config, batches), batches, splits, teacher, "", targets, cache)


def reads_online(config: TrialConfig) -> bool:
    """Whether the teacher reads each batch as the student sees it. Raises ConfigError for cached features of random views."""
    teacher, names = config.teacher, in_words(config.augment)
    if config.augment and teacher.features == "cached" and not teacher.cached_views:
        raise ConfigError(
            f"teacher.features is cached, which are those of the plain images, and the student sees random views "
            f"({names}); set teacher.features: online, or augment: [], or keep some views (teacher.cached_views: 4)"
        )
    return teacher.features == "online" or (bool(config.augment) and not teacher.cached_views)


def build(
    network: Network,
    batches: ImageBatches,
    task: Task,
    *,
    seed: int,
    refuses: Callable[[object], str | None] | None = None,
    size: tuple[int, int] | None = None,
    tell: Progress = lambda _: None,
) -> nn.Module:
    """Builds a network for the batches and the task; `refuses` judges its output in the place of what the task says.

    size  height and width that it reads, where those are not the images'
    """
    built = build_network(
        network.name,
        network.arguments,
        (batches.input_shape[0], *(size or batches.input_shape[1:])),
        task.outputs,
        seed=seed,
        pretrained=network.pretrained,
        output=network.output,
        refuses=refuses or task.refuses,
        tell=tell,
    )
    return built.to(batches.device, memory_format=batches.memory_format)  # type: ignore[call-overload, no-any-return]


def layers_of(config: TrialConfig, layers: tuple[str, ...] | str, network: nn.Module, batches: ImageBatches) -> tuple[str, ...]:
    """The layers that names, globs or `auto` stand for, then the logits where they are inside the matrix; none without pairs."""
    if not config.weighting.paired:
        return ()
    inside = (LOGITS,) if config.pairs.logits == "inside" else ()
    return (*(name for name in resolve_layers(network, layers, batches.input_shape) if name not in inside), *inside)


def build_student(config: TrialConfig, batches: ImageBatches, cache: Path, tell: Progress = lambda _: None) -> nn.Module:
    """A student at its start: fresh, pretrained or from a file."""
    student = config.student
    network = build(student.network, batches, task_of(config, batches), seed=config.seed, tell=tell)
    if student.weights is not None:
        load_weights_of(network, student.weights, student.weights_key, cache, tell)
    return network


def load_weights_of(
    network: nn.Module, place: Path | str, key: str | None, cache: Path, progress: Progress = lambda _: None
) -> Path:
    """Loads weights from a file on disk or in storage; gives the path that they were read from."""
    path = on_disk(place, cache, folder=False, progress=progress)
    with nullcontext() if path == place else about(str(place)):
        for note in load_weights(network, path, key):
            progress(Note(note))
    return path


def prepare_teacher(
    config: TrialConfig, batches: ImageBatches, splits: Splits, cache: Path, progress: Progress
) -> TrainedTeacher:
    """Gives the teacher with its weights: from its file, from the cache, or trained now and kept there."""
    (network, reads), task = build_teacher(config, batches), task_of(config, batches)
    if config.teacher.weights is not None:
        weights = load_weights_of(network, config.teacher.weights, config.teacher.weights_key, cache, progress)
        teacher = TrainedTeacher.measured(network, task, batches, splits.val, weights)
    else:
        teacher = trained_teacher(network, config.teacher, task, batches, splits, cache, progress)
    teacher = replace(teacher, reads=reads)
    if isinstance(reads, OwnInput) and not is_given(config.teacher):
        progress(Note(f"the teacher {config.teacher.network.name} reads {reads}"))
    if is_given(config.teacher):
        as_told = config.teacher.normalise != "data" or reads_as_its_weights(config.teacher)
        judge = Judge(teacher, config.teacher.network.name, task, config.task.goal, batches, splits.val, as_told)
        progress(Note(str(judge)))
        if not config.teacher.accept_weak:
            judge.require_worthy(cache, progress)
    return teacher


def build_teacher(config: TrialConfig, batches: ImageBatches, tell: Progress = lambda _: None) -> tuple[nn.Module, Normalisation]:
    """The teacher as it is built, and how the pixels become what it reads: it takes the student's batches, and gives logits.

    Raises ConfigError where `teacher.normalise`, `teacher.input` or `teacher.returns` does not fit the network.
    """
    teacher, task = config.teacher, task_of(config, batches)
    probable = teacher.returns == "probabilities"
    own = size_of_input(teacher, batches)
    network = build(
        teacher.network,
        batches,
        task,
        seed=teacher.seed,
        refuses=partial(of_logarithm, task.refuses) if probable else task.refuses,
        size=own[0] if own else None,
        tell=tell,
    )
    reads = with_size(teacher_normalisation(teacher, network, batches), own)
    if probable:
        require_hooks(network, "teacher.returns")
        network.register_forward_hook(logarithm)
    return reading(network, batches.normalisation, reads, batches.device), reads
