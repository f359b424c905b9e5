"""What the frozen teacher says of images: computed once and shared as read-only memory maps, or on line for random views."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_hpo.core.pairs import Targets
from kd_hpo.core.plan import LayerShape, PairPlan, Size, pair_plan
from kd_hpo.data.arrays import read_array
from kd_hpo.data.batches import ImageBatches, Indices, chunks
from kd_hpo.data.teacher_sample import Sample
from kd_hpo.errors import DataError, Note
from kd_hpo.files import cached, reserve
from kd_hpo.nets.features import FeatureTap, layer_shapes
from kd_hpo.nets.identity import network_digest
from kd_hpo.nets.teacher_view import TeacherView, measured

_VERSION = 4
_CHUNK = 512


class TeacherTargets(Protocol):
    """The teacher's logits, and its features at every resolution that the plan wants."""

    @property
    def plan(self) -> PairPlan: ...

    def batch(self, images: Indices, x: Tensor, sizes: Collection[Size], compared: int | None = None) -> Targets:
        """Gives the targets of views x (B, C, H, W) of these images, with features at these of the plan's resolutions.

        Features are of the first `compared` views, or of all.
        """
        ...

    def logits(self, images: Indices, x: Tensor) -> Tensor:
        """Gives the logits (B, K) alone, where the features are not wanted."""
        ...


@dataclass(frozen=True)
class TeacherReader(TeacherView):
    """A view of a teacher, standardised over the plain train split, as targets of views of its images."""

    precision: ImageBatches

    @property
    def batches(self) -> ImageBatches:
        return self.precision

    def batch(self, images: Indices, x: Tensor, sizes: Collection[Size], compared: int | None = None) -> Targets:
        return self.read(x, sizes, compared)

    def logits(self, images: Indices, x: Tensor) -> Tensor:
        return self.read_logits(x)


@dataclass(frozen=True)
class CachedTargets:
    """The targets that a reader has read of the images, on disk."""

    plan: PairPlan
    all_logits: NDArray[np.float32]
    blocks: dict[Size, NDArray[Any]]
    """float32, or int16 with the bits of bfloat16, which numpy does not know."""
    rows: NDArray[np.int64]
    """Where each image of the data set stands in the arrays; -1 where it does not."""
    device: torch.device

    def batch(self, images: Indices, x: Tensor, sizes: Collection[Size], compared: int | None = None) -> Targets:
        at = self._at(images[:compared])
        rows = {size: self._read(self.blocks[size], at) for size in sizes}
        blocks = {size: b.view(torch.bfloat16).float() if b.dtype == torch.int16 else b for size, b in rows.items()}
        return Targets(self.logits(images, x), blocks)

    def logits(self, images: Indices, x: Tensor) -> Tensor:
        return self._read(self.all_logits, self._at(images))

    def _at(self, images: Indices) -> NDArray[np.int64]:
        """Raises DataError for images of which nothing is stored, rather than give what stands elsewhere."""
        known = (images >= 0) & (images < len(self.rows))
        at = self.rows[np.where(known, images, 0)]
        if not (known & (at >= 0)).all():
            first = images[~(known & (at >= 0))][0]
            raise DataError(f"the teacher's cached features are asked for image {first}, which is none of those that were read")
        return at

    def _read(self, array: NDArray[Any], at: NDArray[np.int64]) -> Tensor:
        # The plain array under a memory map: numpy's own class for maps takes as long for a small batch as reading it does.
        return torch.from_numpy(np.asarray(array).take(at, axis=0)).to(self.device)


def teacher_reader(
    network: nn.Module,
    layers: Sequence[str],
    batches: ImageBatches,
    train: Indices,
    student: Sequence[LayerShape],
    *,
    logits_pair: bool,
    meet: bool,
    standardised: bool,
    cache: Path,
) -> TeacherReader:
    """Makes the reader of a teacher; its statistics of the plain train split come from the cache, or are computed there.

    student holds the shapes of the student's layers, which say at what resolutions the pairs meet, where they `meet`.
    Raises FeatureMismatch for a layer that never varies.
    """
    with FeatureTap(network, layers) as tap:
        shapes = layer_shapes(tap, batches.input_shape)
    everything = pair_plan(shapes, student, logits_pair=logits_pair, meet=meet)
    if not standardised or not layers:
        return TeacherReader.as_it_is(network, shapes, everything, batches)
    sizes = {str(size): wanted for size, wanted in everything.blocks.items()}
    told = [network_digest(network), batches.images.digest, list(layers), sizes, batches.precision]
    key = _digest([*told, *batches.normalisation.identity], train)
    sample = Sample(network, shapes, batches, train)
    folder = cached(
        cache / f"teacher-statistics-{key}",
        read=sample.holds,
        make=lambda new: sample.keep(new, lambda: _measure(network, shapes, everything, batches, train, new)),
    )
    channels = tuple(_channels(folder / f"channels-{t}.npy", shape).to(batches.device) for t, shape in enumerate(shapes))
    kept = [replace(s, channels=len(c)) for s, c in zip(shapes, channels, strict=True)]
    plan = pair_plan(kept, student, logits_pair=logits_pair, meet=meet)
    statistics = {size: _statistics(folder, plan, size, batches).to(batches.device) for size in plan.blocks}
    return TeacherReader(network, shapes, plan, channels, statistics, batches)


def _channels(file: Path, shape: LayerShape) -> Tensor:
    channels = read_array(file, np.int64, (None,))
    if not len(channels) or channels[0] < 0 or channels[-1] >= shape.channels or (np.diff(channels) <= 0).any():
        raise DataError(f"{file} of the cache is not of layer {shape}. Remove the folder {file.parent} and start again.")
    return torch.from_numpy(channels)


def _statistics(folder: Path, plan: PairPlan, size: Size, batches: ImageBatches) -> Tensor:
    return torch.from_numpy(read_array(folder / f"{_name(size)}.npy", _numpy(batches.dtype), (2, _width(plan, size))))


def _numpy(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _width(plan: PairPlan, size: Size) -> int:
    return sum(plan.teacher[t].channels for t in plan.blocks[size])


def cached_targets(
    reader: TeacherReader,
    images: Indices,
    cache: Path,
    precision: Literal["float32", "bfloat16"] = "float32",
    progress: Callable[[str], None] = lambda _: None,
) -> CachedTargets:
    """Gives what the reader says of the images, or of views of them: read from the cache, or computed there first.

    One process computes it.

    `progress` is told where the teacher gives other features of a sample than the cache has, which are then computed again.
    Raises DataError where the disk has no room for it.
    """
    plan, batches = reader.plan, reader.batches
    told: list[object] = [
        network_digest(reader.network),
        batches.images.digest,
        [asdict(s) for s in reader.shapes],
        batches.precision,
    ]
    statistics = {str(size): values.tolist() for size, values in reader.statistics.items()}
    told += [batches.views.identity] if batches.views else []
    told += [precision] if precision != "float32" else []
    told += batches.normalisation.identity
    sample = Sample(reader.network, reader.shapes, batches, images)
    folder = cached(
        cache / f"teacher-targets-{_digest([*told, statistics], images)}",
        read=sample.holds,
        make=lambda new: sample.keep(new, lambda: _write(reader, images, new, _STORED[precision])),
    )
    if sample.outdated:
        progress(Note("the teacher no longer gives what the cache has of it, so that it has been read again"))
    rows = np.full(batches.numbers, -1)
    rows[images] = np.arange(len(images))
    shapes, dtype = _shapes(reader, images), _STORED[precision]
    blocks = {size: read_array(folder / f"{_name(size)}.npy", dtype, shape, mapped=True) for size, shape in shapes.items()}
    outputs = reader.logits(images[:1], batches.inputs(images[:1])).shape[1:]
    logits = read_array(folder / "logits.npy", _numpy(batches.dtype), (len(images), *outputs), mapped=True)
    return CachedTargets(plan, logits, blocks, rows, batches.device)


_STORED: dict[str, type[np.float32 | np.int16]] = {"float32": np.float32, "bfloat16": np.int16}


def cached_bytes(reader: TeacherReader, images: Indices, precision: str = "float32") -> int:
    """Tells how many bytes the features of so many images take in the cache."""
    each = np.dtype(_STORED[precision]).itemsize
    return sum(each * int(np.prod(shape, dtype=np.int64)) for shape in _shapes(reader, images).values())


def _shapes(reader: TeacherReader, images: Indices) -> dict[Size, tuple[int, int, int]]:
    return {(h, w): (len(images), h * w, _width(reader.plan, (h, w))) for h, w in reader.plan.blocks}


def _measure(
    network: nn.Module, shapes: Sequence[LayerShape], plan: PairPlan, batches: ImageBatches, train: Indices, folder: Path
) -> None:
    """Which channels vary over the train split and, at each resolution, their mean and deviation over images and positions."""
    folder.mkdir()
    varies, statistics = measured(network, shapes, plan, _plain(batches, train), batches)
    for t, live in enumerate(varies):
        np.save(folder / f"channels-{t}.npy", live.nonzero().flatten().cpu().numpy())
    for size, values in statistics.items():
        np.save(folder / f"{_name(size)}.npy", values.cpu().numpy())


def _write(reader: TeacherReader, images: Indices, folder: Path, dtype: type[np.float32 | np.int16]) -> None:
    folder.mkdir()
    shapes, each = _shapes(reader, images), np.dtype(dtype).itemsize
    need, free = sum(each * int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()), disk_usage(folder).free
    if need > free:  # writing to a map without room would kill the process instead of raising
        raise DataError(
            f"the teacher's features of {len(images)} images take {need / 1e9:.1f} GB and the disk of the cache has "
            f"{free / 1e9:.1f} GB left. Free some space, name fewer or later teacher.layers, or set teacher.features: online"
        )
    blocks = {
        size: np.lib.format.open_memmap(folder / f"{_name(size)}.npy", mode="w+", dtype=dtype, shape=shape)
        for size, shape in shapes.items()
    }
    for size in blocks:
        reserve(folder / f"{_name(size)}.npy")  # another process may fill the disk meanwhile
    logits, at = [], 0
    for x in _plain(reader.batches, images):
        targets = reader.batch(images, x, reader.plan.blocks)
        logits.append(targets.logits.cpu().numpy())
        for size, block in blocks.items():
            values = targets.blocks[size].cpu()
            block[at : at + len(x)] = (values.bfloat16().view(torch.int16) if dtype is np.int16 else values).numpy()
        at += len(x)
    for block in blocks.values():
        block.flush()
    np.save(folder / "logits.npy", np.concatenate(logits))


def _plain(batches: ImageBatches, images: Indices) -> Iterator[Tensor]:
    return (batches.inputs(chunk) for chunk in batches.ahead(chunks(images, _CHUNK)))


def _digest(told: list[object], images: Indices) -> str:
    return hashlib.sha256(json.dumps([_VERSION, *told]).encode() + images.tobytes()).hexdigest()[:24]


def _name(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
