"""The frozen teacher's features, computed once and shared by every trial as read-only memory maps."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.pairs import Targets
from kd_hpo.core.plan import LayerShape, PairPlan, Size, pair_plan
from kd_hpo.data.batches import ImageBatches, Indices, chunks
from kd_hpo.errors import FeatureMismatch
from kd_hpo.files import folder_published_atomically
from kd_hpo.nets.features import FeatureTap, evaluating, layer_shapes
from kd_hpo.nets.zoo import weights_digest

_VERSION = 1
_CHUNK = 512


@dataclass(frozen=True)
class TeacherTargets:
    """What the teacher says of some images: logits, and every wanted resolution of its features.

    Each channel of each resolution has mean 0 and deviation 1 over the train split, so that a nat means the same in every
    pair; a channel that never varies is left out, since it would pay without bound for a constant.
    """

    plan: PairPlan
    logits: NDArray[np.float32]
    blocks: dict[Size, NDArray[np.float32]]
    rows: NDArray[np.int64]
    """Where each image of the data set stands in the arrays; -1 where it does not."""
    device: torch.device

    def batch(self, indices: Indices) -> Targets:
        rows = self.rows[indices]
        return Targets(self._read(self.logits, rows), {size: self._read(block, rows) for size, block in self.blocks.items()})

    def logits_of(self, indices: Indices) -> Tensor:
        """(B, K)"""
        return self._read(self.logits, self.rows[indices])

    def _read(self, array: NDArray[np.float32], rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array[rows]).to(self.device)


def teacher_targets(
    teacher: FeatureTap,
    batches: ImageBatches,
    train: Indices,
    outer: Indices,
    student: Sequence[LayerShape],
    *,
    logits_pair: bool,
    cache: Path,
) -> TeacherTargets:
    """Reads the targets of the train and outer splits from the cache, or computes them there first.

    student holds the shapes of the student's layers, which say at what resolutions the pairs meet.
    """
    images = np.concatenate([train, outer])
    sizes = sorted({(s.height, s.width) for s in student})
    key = json.dumps([_VERSION, weights_digest(teacher.network), batches.images.digest, teacher.layers, sizes, logits_pair])
    digest = hashlib.sha256(key.encode() + train.tobytes() + b"|" + outer.tobytes()).hexdigest()[:24]
    folder = cache / f"teacher-{digest}"
    if not folder.is_dir():
        with folder_published_atomically(folder) as temporary:
            _compute(teacher, batches, images, len(train), student, logits_pair, temporary)
    shapes = [LayerShape(**shape) for shape in json.loads((folder / "layers.json").read_text())]
    plan = pair_plan(shapes, student, logits_pair=logits_pair)
    rows = np.full(len(batches.images.labels), -1)
    rows[images] = np.arange(len(images))
    blocks = {size: np.load(folder / _block_file(size), mmap_mode="r") for size in plan.blocks}
    return TeacherTargets(plan, np.load(folder / "logits.npy", mmap_mode="r"), blocks, rows, batches.device)


def _compute(
    teacher: FeatureTap,
    batches: ImageBatches,
    images: Indices,
    train_count: int,
    student: Sequence[LayerShape],
    logits_pair: bool,
    folder: Path,
) -> None:
    shapes = layer_shapes(teacher, batches.input_shape)
    with evaluating(teacher), torch.no_grad():
        live = _varying_channels(teacher, batches, images[:train_count])
        for shape, channels in zip(shapes, live, strict=True):
            if not len(channels):
                raise FeatureMismatch(f"teacher layer {shape} never varies on the train split; leave it out of teacher.layers")
        kept = [LayerShape(s.name, len(c), s.height, s.width) for s, c in zip(shapes, live, strict=True)]
        plan = pair_plan(kept, student, logits_pair=logits_pair)
        widths = {size: sum(kept[t].channels for t in layers) for size, layers in plan.blocks.items()}
        blocks = {
            size: np.lib.format.open_memmap(
                folder / _block_file(size), mode="w+", dtype=np.float32, shape=(len(images), size[0] * size[1], width)
            )
            for size, width in widths.items()
        }
        logits, at = [], 0
        for chunk in chunks(images, _CHUNK):
            output, features = teacher(batches.inputs(chunk))
            logits.append(output.cpu().numpy())
            for size, layers in plan.blocks.items():
                rows = [pooled(as_map(features[t])[:, live[t]], size) for t in layers]
                blocks[size][at : at + len(chunk)] = torch.cat(rows, 2).cpu().numpy()
            at += len(chunk)
    for block in blocks.values():
        _standardise(block, train_count)
        block.flush()
    np.save(folder / "logits.npy", np.concatenate(logits))
    (folder / "layers.json").write_text(json.dumps([asdict(shape) for shape in kept]))


def _varying_channels(teacher: FeatureTap, batches: ImageBatches, images: Indices) -> list[Tensor]:
    """For each layer, the channels whose range over the images is more than rounding."""
    low: list[Tensor] = []
    high: list[Tensor] = []
    for chunk in chunks(images, _CHUNK):
        features = [as_map(f).movedim(1, 0).flatten(1) for f in teacher(batches.inputs(chunk))[1]]
        lows, highs = [f.amin(1) for f in features], [f.amax(1) for f in features]
        low = [torch.minimum(a, b) for a, b in zip(low, lows, strict=True)] if low else lows
        high = [torch.maximum(a, b) for a, b in zip(high, highs, strict=True)] if high else highs
    return [(b - a > 1e-5 * (b - a).max().clamp_min(1e-30)).nonzero().flatten() for a, b in zip(low, high, strict=True)]


def _standardise(block: NDArray[np.float32], train_count: int) -> None:
    """In place, a few rows at a time: mean 0 and deviation 1 of each channel over images and positions of the train split."""
    total, squares = np.zeros(block.shape[2]), np.zeros(block.shape[2])
    for start in range(0, train_count, _CHUNK):
        values = block[start : min(start + _CHUNK, train_count)].astype(np.float64)
        total, squares = total + values.sum((0, 1)), squares + np.square(values).sum((0, 1))
    count = train_count * block.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    for start in range(0, len(block), _CHUNK):
        block[start : start + _CHUNK] = (block[start : start + _CHUNK] - mean) / std


def _block_file(size: Size) -> str:
    return f"block-{size[0]}x{size[1]}.npy"
