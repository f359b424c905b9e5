"""What one trial does: data, networks, the inner problem, and how the pairs are weighted."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from kd_hpo.config.augment import Augment
from kd_hpo.config.data import Data, SplitSizes
from kd_hpo.config.normalise import TeacherInput, TeacherNormalise
from kd_hpo.config.pairs import Distillation, LogitLoss, Pairs
from kd_hpo.config.settings import Key, Location, Plain, Seed, Settings
from kd_hpo.config.task import Classification, Task
from kd_hpo.config.training import Training, absent
from kd_hpo.config.weightings import LearnedWeights, NoPairs, Weighting

Layers = Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)]

M = TypeVar("M", bound=Settings)


WeightsKey = Annotated[Key | None, Field(exclude_if=absent)]


class Network(Settings):
    name: str
    """Of kd_hpo's own, torchvision's or timm's networks (`kd-hpo networks` lists them), or `package.module:callable`."""
    arguments: dict[Key, Plain] = Field(default={})
    pretrained: bool | str = False
    """Starts from the library's own weights: true takes its default ones, a name those of that name."""
    output: Annotated[Key | int | None, Field(exclude_if=absent)] = None
    """Of a network that returns more than one tensor, in training or always, which one is its output: a key (`logits`), the
    field of a named tuple or data class, or a place (`0`); of items in items `heads.0`. Others are neither trained nor read."""


def _key_needs_weights(self: M) -> M:
    if getattr(self, "weights_key", None) is not None and getattr(self, "weights", None) is None:
        raise ValueError("weights_key says where in the file of `weights` they lie; give weights, or omit weights_key")
    return self


class Teacher(Settings):
    network: Network
    layers: Layers
    """Module names or globs, in order of depth, or auto; the logits are added where `pairs.logits` says inside."""
    weights: Location | None = None
    """A safetensors file, or a torch file of tensors, on disk or in storage as `s3://BUCKET/KEY`; null trains the teacher
    once and keeps it for all that have the same."""
    weights_key: WeightsKey = None
    """Where in `weights` they lie, such as `state_dict_ema` or `teacher`, for a file in which more than one set would fit."""
    images: Literal["train", "train_and_extra"] = "train"
    """What it is trained on: the train split, or also the images that no split holds."""
    training: Training | None = Training(epochs=25)
    """null takes the network as it comes, which makes sense where it is pretrained."""
    augment: Augment = ()
    """Random views in the teacher's own training, as `augment` of the trial has them."""
    normalise: TeacherNormalise = "data"
    """How pixels become the numbers that the teacher reads: as `data.normalise` says, or as that would be with train, none or a
    mapping with mean and std; weights takes what torchvision or timm say of the network's pretrained weights. It sees the same
    views as the student."""
    input: Annotated[TeacherInput | None, Field(exclude_if=absent)] = None
    """At what size it reads them: `data`, the student's; `{size: 224, interpolation: bicubic}`; `weights`, that of its pretrained
    weights. null: weights for a network with `pretrained` (the student's size with `stem: small`), which then reads their
    mean and std too unless `normalise` says otherwise; data for others."""
    returns: Literal["logits", "probabilities"] = "logits"
    """What the network gives: of probabilities, the logarithm is taken. Logarithms of probabilities are logits."""
    accept_weak: bool = False
    """Whether a teacher with weights of its own, from a file or as it is built, may teach where it hardly knows more than chance
    on `val`, where it would be far better with another normalisation, or where its student reaches as much without it: before a
    study begins, the student is trained alone once, which takes about one trial. true leaves all of that out."""
    features: Literal["auto", "cached", "online"] = "auto"
    """cached: computed once, of the plain images or of `cached_views`; online: on each batch; auto: cached where it can be."""
    cached_views: NonNegativeInt = 0
    """Of a student with random views (`augment`, without what mixes images): so many views of each training image are drawn once,
    one is seen in each epoch, in turn, and their features are cached. 0 draws new views all the time, and reads them on line."""
    cache_precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 halves what the cached features take; losses are computed in float32 all the same."""
    cache_gb: PositiveFloat = 20.0
    """The most that cached features may take on a node. Where they would take more, auto reads them on line, and says so."""
    seed: Seed = 0

    _key_needs_weights = model_validator(mode="after")(_key_needs_weights)


class Student(Settings):
    network: Network
    layers: Layers
    weights: Location | None = None
    """What it starts from; null starts it from fresh weights."""
    weights_key: WeightsKey = None
    """Where in `weights` they lie, as of the teacher."""

    _key_needs_weights = model_validator(mode="after")(_key_needs_weights)


class Assistant(Settings):
    """A network between teacher and student (Mirzadeh et al. 2020): taught by the one before it, it teaches the next one.

    It is trained once, as a student is, and kept for every study that has the same one.
    """

    network: Network
    layers: Layers = "auto"
    """What it forms pairs with: with its own teacher's layers, where its weighting has pairs, and with its student's."""
    training: Training
    kd: LogitLoss = Distillation()
    pairs: Pairs = Pairs()
    weighting: Weighting = NoPairs()


class TrialConfig(Settings):
    """Everything that one trial depends on: on one machine, the same configuration gives the same trial.

    Frozen: `replace(field=...)` gives another one, checked anew. Raises pydantic's ValidationError for what is not accepted.
    """

    data: Data
    task: Task = Classification()
    """What the networks are for."""
    splits: SplitSizes
    teacher: Teacher
    assistants: tuple[Assistant, ...] = ()
    """Between teacher and student, in order; the last one teaches the student."""
    student: Student
    training: Training
    augment: Augment = ()
    """Random views of the training images, step by step: flip, crop, cutout, mixup, and transforms of torchvision (v2) or of your
    own, `{name: RandAugment, arguments: {magnitude: 9}}`. The teacher sees each view that the student sees."""
    kd: LogitLoss = Distillation()
    pairs: Pairs = Pairs()
    weighting: Weighting = LearnedWeights()
    seed: Seed = 0
    """Of the student's start, the order of batches and all that is random in the trial; the splits have their own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs both networks under autocast; losses and weights stay in float32."""
    channels_last: bool = False
    """The memory format of images and of both networks."""
    workers: NonNegativeInt = 0
    """Processes that read images ahead of the training. Small images need none; those of a hundred pixels a side and more, on a
    GPU or from a slow disk, wait less with two to four."""
    compile: bool = False
    """torch.compile of the student's pass in the plain step; other passes, as the hypergradient's, run as they are."""
