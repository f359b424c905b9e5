"""Batches of normalised images, and the order they come in: every order is a function of seed and position, not of state."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_hpo.data.augment import KeptViews
from kd_hpo.data.datasets import ImageSet
from kd_hpo.data.normalise import Normalisation, of_images

Indices = NDArray[np.int64]


class ImageBatches:
    """Images of a data set as float batches, each channel brought to mean 0 and deviation 1 of the given images.

    normalisation  another one instead; `class_counts` (K,) are of the given images too
    precision      "bfloat16": networks run on them under autocast (`autocast`)
    channels_last  the memory format of the batches
    views          some views of each image, which have numbers of their own: `viewed`
    workers        processes that read pixels from disk before they are asked for, in `ahead`
    """

    def __init__(
        self,
        images: ImageSet,
        statistics_of: Indices,
        device: torch.device,
        *,
        normalisation: Normalisation | None = None,
        precision: str = "float32",
        channels_last: bool = False,
        views: KeptViews | None = None,
        workers: int = 0,
    ) -> None:
        self.images, self.device, self.precision = images, device, precision
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.normalisation = normalisation or of_images(images, statistics_of)
        self.mean, self.std = self.normalisation.tensors(device)
        self._statistics_of = statistics_of
        self.class_counts = np.bincount(images.labels[statistics_of], minlength=len(images.classes))
        self._labels, self.views, self._workers = images.labels, views, workers
        self._read_ahead: tuple[Indices, Tensor] | None = None

    @cached_property
    def train_normalisation(self) -> Normalisation:
        """The normalisation by the statistics of the given images, whichever is in force."""
        return self.normalisation if self.normalisation.name == "train" else of_images(self.images, self._statistics_of)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        c, h, w = self.images.images.shape[1:]
        return c, h, w

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the inputs, and of all that losses are made of."""
        return self.mean.dtype

    @property
    def numbers(self) -> int:
        """The number of images, with their views."""
        return len(self._labels) * (1 + (self.views.count if self.views else 0))

    def viewed(self, indices: Indices, number: int) -> Indices:
        """The numbers that stand for the images as the view of that number shows them; the images themselves without views."""
        return indices + len(self._labels) * (1 + number % self.views.count) if self.views else indices

    def ahead(self, batches: Iterable[Indices]) -> Iterator[Indices]:
        """Gives the same batches, with their pixels at hand when `inputs` is asked for: the workers read some batches ahead."""
        if not self._workers:
            yield from batches
            return
        wanted = list(batches)
        rows = _Rows(str(self.images.images.filename), [batch % len(self._labels) for batch in wanted])  # type: ignore[attr-defined]
        own = torch.Generator()  # torch's global one is the trial's
        pin = self.device.type == "cuda"
        loader = DataLoader(rows, batch_size=None, num_workers=self._workers, pin_memory=pin, generator=own)
        for batch, pixels in zip(wanted, loader, strict=True):
            self._read_ahead = batch, pixels
            yield batch
        self._read_ahead = None

    def _pixels(self, indices: Indices, images: Indices) -> Tensor:
        if self._read_ahead is not None and self._read_ahead[0] is indices:
            return self._read_ahead[1]
        return torch.from_numpy(self.images.images[images])

    def inputs(self, indices: Indices) -> Tensor:
        """The images as inputs of a network, (B, C, H, W) in torch's default dtype."""
        number, image = np.divmod(indices, len(self._labels))
        batch = self._pixels(indices, image).to(self.device, self.mean.dtype, memory_format=self.memory_format)
        x = batch.sub_(self.mean).div_(self.std)  # of bytes, so that it is a copy
        if self.views is None or not number.any():
            return x
        viewed = torch.from_numpy(number > 0)
        of = torch.from_numpy(image)[viewed], torch.from_numpy(number)[viewed] - 1
        x[viewed.to(x.device)] = self.views.change(x[viewed.to(x.device)], *of)
        return x

    def autocast(self) -> torch.autocast:
        """The precision that networks run in on these batches."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def labels(self, indices: Indices) -> Tensor:
        """The labels of the images, (B,) int64."""
        return torch.from_numpy(self._labels[indices % len(self._labels)]).to(self.device)


class _Rows(Dataset[Tensor]):
    """Batches of pixels in a file, which each process maps for itself: a map that was sent would be a copy of all of it."""

    def __init__(self, file: str, batches: list[Indices]) -> None:
        self._file, self._batches = file, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(np.load(self._file, mmap_mode="r", allow_pickle=False)[self._batches[number]])


def chunks(indices: Indices, size: int) -> Iterator[Indices]:
    """The indices in order, `size` at a time; the last may be shorter."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def shuffled_batches(indices: Indices, size: int, *key: int) -> Iterator[Indices]:
    """Whole batches of one pass in the random order that the key names; a last partial batch is left out."""
    order = np.random.default_rng(key).permutation(indices)
    return chunks(order[: len(order) // size * size], size)


def drawn_batch(indices: Indices, size: int, *key: int) -> Indices:
    """Draws `size` of the indices (all where there are fewer) without replacement, as the key names."""
    return np.random.default_rng(key).permutation(indices)[:size]
