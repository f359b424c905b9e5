"""Whether a frozen teacher still gives what was kept of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kd_hpo.core.plan import LayerShape
from kd_hpo.data.arrays import read_array
from kd_hpo.data.batches import ImageBatches, Indices
from kd_hpo.nets.teacher_view import read_teacher

_SAMPLE = 8
"""Images whose features are computed again at each start."""


class Sample:
    """What a teacher gives of a few images, kept with what was computed with it: to see at each start that it still does.

    The digest in a cache's name tells teachers apart by all that is known to act on them; this sees the rest.
    """

    def __init__(self, network: nn.Module, shapes: Sequence[LayerShape], batches: ImageBatches, images: Indices) -> None:
        self._network, self._shapes, self._batches = network, shapes, batches
        self._images = images[np.linspace(0, len(images) - 1, min(_SAMPLE, len(images))).astype(int)]
        self.outdated = False
        """Whether what was kept was another teacher's."""

    def keep(self, folder: Path, make: Callable[[], None]) -> None:
        """Keeps the sample in the folder, beside what `make` puts there."""
        make()
        np.save(folder / "sample.npy", self._now())

    def holds(self, folder: Path) -> Path | None:
        """Gives the folder, where it is there and holds what this teacher gives, else None.

        A teacher that gives something else each time passes.
        """
        if not folder.is_dir():
            return None
        now = self._now()
        kept = read_array(folder / "sample.npy", np.float32, now.shape)
        if _close(kept, now) or not _close(self._now(), now):
            return folder
        self.outdated = True
        return None

    def _now(self) -> NDArray[np.float32]:
        """(n,): the logits, and the mean of every channel over each map."""
        every = [torch.arange(s.channels, device=self._batches.device) for s in self._shapes]
        one = {(1, 1): tuple(range(len(self._shapes)))} if self._shapes else {}
        logits, rows = read_teacher(self._network, self._shapes, every, one, self._batches.inputs(self._images), self._batches)
        return torch.cat([each.flatten().float() for each in (logits, *rows.values())]).cpu().numpy()


def _close(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Up to what other hardware or numbers of fewer bits make of the same network."""
    finite = np.isfinite(other)
    return bool(np.allclose(one[finite], other[finite], rtol=0.05, atol=0.02 * np.abs(other[finite]).max(initial=1e-6)))
