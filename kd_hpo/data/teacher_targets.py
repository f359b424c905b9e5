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
from kd_hpo.data.teacher_sample import Sample, read_teacher
from kd_hpo.errors import DataError, FeatureMismatch, Note
from kd_hpo.files import cached, reserve
from kd_hpo.nets.features import FeatureTap, layer_shapes
from kd_hpo.nets.identity import network_digest

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
class TeacherReader:
    """Runs a frozen teacher on views, and brings each channel to mean 0 and deviation 1 over the plain train split.

    Standardised, a nat means the same in every pair; a channel that never varies is left out, since it would pay without
    bound for a constant. Losses that compare features as they are read them with mean 0 and deviation 1 in `statistics`.
    """

    network: nn.Module
    shapes: tuple[LayerShape, ...]
    """Of the layers as the network gives them."""
    plan: PairPlan
    """Of the channels that are read."""
    channels: tuple[Tensor, ...]
    """Of each layer, the channels that are read."""
    statistics: dict[Size, Tensor]
    """(2, C) for each resolution: mean and deviation of its channels."""
    batches: ImageBatches

    def batch(self, images: Indices, x: Tensor, sizes: Collection[Size], compared: int | None = None) -> Targets:
        wanted = {size: layers for size, layers in self.plan.blocks.items() if size in sizes}
        logits, rows = read_teacher(self.network, self.shapes, self.channels, wanted, x, self.batches, compared)
        blocks = {size: (block - self.statistics[size][0]) / self.statistics[size][1] for size, block in rows.items()}
        return Targets(logits, blocks)

    def logits(self, images: Indices, x: Tensor) -> Tensor:
        return read_teacher(self.network, (), (), {}, x, self.batches)[0]


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
        every = tuple(torch.arange(s.channels, device=batches.device) for s in shapes)
        plain = {
            size: torch.tensor([[0.0], [1.0]], device=batches.device).expand(2, sum(shapes[t].channels for t in wanted))
            for size, wanted in everything.blocks.items()
        }
        return TeacherReader(network, shapes, everything, every, plain, batches)
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
    every = [torch.arange(s.channels, device=batches.device) for s in shapes]
    sums: dict[Size, Tensor] = {}
    lows: dict[Size, Tensor] = {}
    highs: dict[Size, Tensor] = {}
    for x in _plain(batches, train):
        for size, block in read_teacher(network, shapes, every, plan.blocks, x, batches)[1].items():
            values, low, high = block.double(), block.amin((0, 1)), block.amax((0, 1))
            sums[size] = sums.get(size, 0) + torch.stack([values.sum((0, 1)), values.square().sum((0, 1))])
            lows[size] = torch.minimum(lows.get(size, low), low)
            highs[size] = torch.maximum(highs.get(size, high), high)
    varies = [torch.ones(s.channels, dtype=torch.bool, device=batches.device) for s in shapes]
    for size, wanted in plan.blocks.items():
        ranges = (highs[size] - lows[size]).split([shapes[t].channels for t in wanted])
        for t, span in zip(wanted, ranges, strict=True):
            varies[t] &= span > 1e-5 * span.max()
    for t, (shape, live) in enumerate(zip(shapes, varies, strict=True)):
        if not live.any():
            raise FeatureMismatch(f"teacher layer {shape} never varies on the train split; leave it out of teacher.layers")
        np.save(folder / f"channels-{t}.npy", live.nonzero().flatten().cpu().numpy())
    for size, (total, squares) in sums.items():
        count = len(train) * size[0] * size[1]
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
        live = torch.cat([varies[t] for t in plan.blocks[size]])
        np.save(folder / f"{_name(size)}.npy", torch.stack([mean, deviation])[:, live].to(x.dtype).cpu().numpy())


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
