"""The places of training images in a memory of them, and which others they are told from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from kd_hpo.data.batches import ImageBatches

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class MemoryRows:
    """The train split in the order of its images' numbers."""

    images: Indices
    """(N,), in order."""
    of_data: int
    """The number of images in the whole data set: views of an image are numbered that much higher each."""
    by_class: NDArray[np.int64]
    """(N,), the rows in the order of their classes."""
    starts: NDArray[np.int64]
    """(K + 1,), where each class begins there."""

    @classmethod
    def of_split(cls, train: Indices, batches: "ImageBatches") -> Self:
        images, labels = np.sort(train), batches.images.labels
        of_rows = labels[images]
        counts = np.bincount(of_rows, minlength=len(batches.images.classes))
        starts = np.concatenate([[0], counts.cumsum()])
        return cls(images, len(labels), np.argsort(of_rows, kind="stable"), starts)

    def rows(self, batch: Indices) -> NDArray[np.int64]:
        """Gives the row of each image of a batch of the split, whichever view it is."""
        return np.searchsorted(self.images, batch % self.of_data)

    def of_other_classes(self, labels: Tensor, count: int, chance: torch.Generator) -> Tensor:
        """Draws rows (B, count) of images of other classes than the labels (B,), each as likely as any."""
        starts = torch.from_numpy(self.starts)
        first, last = starts[labels.cpu()], starts[labels.cpu() + 1]
        others = len(self.images) - (last - first)
        drawn = (torch.rand(len(labels), count, generator=chance, dtype=torch.float64) * others[:, None]).long()
        place = drawn + (drawn >= first[:, None]) * (last - first)[:, None]
        return torch.from_numpy(self.by_class)[place]
