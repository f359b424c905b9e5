"""What a trial reads: the images, how they are split, and the random views of them that training sees."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, PositiveInt, Tag, WithJsonSchema, model_validator

from kd_hpo.config.normalise import Normalise
from kd_hpo.config.settings import FilePath, Key, Location, Plain, Seed, Settings, StorageUri, WrittenAs

Share = Annotated[float, Field(gt=0, lt=1)]
Size = PositiveInt | Share
Callable = Annotated[str, WrittenAs(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "package.module:callable")]
"""`package.module:callable`, found from the current folder or where Python finds its modules."""


EXTRA = "extra"


def _not_a_folder_called_extra(path: Path) -> Path:
    if path == Path(EXTRA):  # written down, it would be taken for the images that no split holds
        raise ValueError(
            "it should be extra, for the images that no split holds, or a folder; write out the path of one of that name"
        )
    return path


def _a_place(value: object) -> object:
    if value is not None and not isinstance(value, str | Path):
        raise ValueError("it should be extra, for the images that no split holds, or a folder of images")
    return value


def _where_unlabelled(value: object) -> str:
    if value == EXTRA:
        return EXTRA
    return "s3" if isinstance(value, str) and "://" in value else "path"


Unlabelled = Annotated[
    Annotated[Literal["extra"], Tag(EXTRA)]
    | Annotated[FilePath, AfterValidator(_not_a_folder_called_extra), Tag("path")]
    | Annotated[StorageUri, Tag("s3")],
    Discriminator(_where_unlabelled),
    BeforeValidator(_a_place),
    WithJsonSchema({"type": "string"}),
]
"""`extra`, or a folder of images, on disk or in storage."""
MOST_UNLABELLED = 5_000


class DataKind(Settings):
    """The base of each kind of data.

    A new kind is a model here, with its name in `Data`, and a reader of its fields in kd_hpo.data.datasets.DATASETS.
    """

    kind: str
    normalise: Normalise = "train"
    """How pixels become the numbers that networks read: train brings each channel to mean 0 and deviation 1 over the train
    split, none divides by 255, and a mapping with mean and std, of pixels from 0 to 1, is used as it
    is. A teacher may have its own."""
    unlabelled: Annotated[Unlabelled | None, Field(exclude_if=lambda value: value is None)] = None
    """Images without labels, on which the student's agreement with its teacher is recorded too, and which `search.by: agreement`
    then goes by: `extra`, those that no split holds, or a folder of images, however nested, on disk or `s3://BUCKET/PREFIX`. They
    are read as the data's own are, to the same size."""
    unlabelled_images: Annotated[PositiveInt, Field(exclude_if=lambda value: value == MOST_UNLABELLED)] = MOST_UNLABELLED
    """The most that are read of them, drawn with the seed of the splits."""
    may_have_test_half: ClassVar[bool] = True
    """Whether a fraction in `splits.test` may be of a test half of its own."""

    def places(self) -> Mapping[str, Path | str]:
        """The folders that the data is read from, on disk or in storage, by the fields that name them; not `unlabelled`."""
        return {}

    @model_validator(mode="after")
    def _as_many_of_something(self) -> Self:
        if self.unlabelled is None and self.unlabelled_images != MOST_UNLABELLED:
            raise ValueError("unlabelled_images says how many are read of `unlabelled`; give that too, or omit it")
        return self


class Digits(DataKind):
    """The handwritten digits of scikit-learn: 1,797 grey images of 8x8 that ship inside the package."""

    kind: Literal["digits"] = "digits"
    may_have_test_half: ClassVar[bool] = False


class ImageFolder(DataKind):
    """A folder of images: `<class>/*.png`, or `train/<class>/*` and `test/<class>/*`."""

    kind: Literal["image_folder"] = "image_folder"
    path: Location
    """On disk, or `s3://BUCKET/PREFIX` in S3-compatible storage that the environment names (AWS_ENDPOINT_URL, ...)."""
    size: PositiveInt | None = None
    """Side in pixels that images are brought to; needed where their sizes differ."""

    def places(self) -> Mapping[str, Path | str]:
        return {"path": self.path}


class TorchvisionData(DataKind):
    """A data set of torchvision by its class name, such as CIFAR10."""

    kind: Literal["torchvision"] = "torchvision"
    name: str
    root: FilePath
    download: bool = False
    size: PositiveInt | None = None
    """Side in pixels that images are brought to; needed where their sizes differ."""

    def places(self) -> Mapping[str, Path | str]:
        return {"root": self.root}


class CallableData(DataKind):
    """A callable of your own that returns a torch data set of (image, label), or two: train and test."""

    kind: Literal["callable"] = "callable"
    callable: Callable
    arguments: dict[Key, Plain] = Field(default={})
    size: PositiveInt | None = None
    """Side in pixels that images are brought to; needed where their sizes differ."""


Data = Annotated[Digits | ImageFolder | TorchvisionData | CallableData, Field(discriminator="kind")]


class SplitSizes(Settings):
    """Four disjoint, stratified splits; a whole number counts images, a fraction is of all images outside the test half."""

    train: Size | None = None
    """Inner loss; null takes all that the others leave."""
    outer: Size = 0.1
    """Hypergradient, nothing else."""
    val: Size = 0.1
    """Compares trials and picks the best epoch."""
    test: Size | None = None
    """Opened once, for winners and baselines; null takes the data set's own test half."""
    seed: Seed = 0
