"""What a trial reads: the images, how they are split, and the random views of them that training sees."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from kd_hpo.config.normalise import Normalise
from kd_hpo.config.settings import FilePath, Key, Location, Plain, Seed, Settings, WrittenAs

Share = Annotated[float, Field(gt=0, lt=1)]
Size = PositiveInt | Share
Callable = Annotated[str, WrittenAs(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", "package.module:callable")]
"""`package.module:callable`, found from the current folder or where Python finds its modules."""


class DataKind(Settings):
    """The base of each kind of data.

    A new kind is a model here, with its name in `Data`, and a reader of its fields in kd_hpo.data.datasets.DATASETS.
    """

    kind: str
    normalise: Normalise = "train"
    """How pixels become the numbers that networks read: train brings each channel to mean 0 and deviation 1 over the train
    split, none divides by 255, and a mapping with mean and std, of pixels from 0 to 1, is used as it
    is. A teacher may have its own."""
    may_have_test_half: ClassVar[bool] = True
    """Whether a fraction in `splits.test` may be of a test half of its own."""

    def places(self) -> Mapping[str, Path | str]:
        """The folders that the data is read from, on disk or in storage, by the fields that name them."""
        return {}


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
