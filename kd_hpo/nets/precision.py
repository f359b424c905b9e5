"""The numbers that networks run in, and those that losses are made of."""

from contextlib import AbstractContextManager
from typing import Protocol

import torch


class Precision(Protocol):
    """The precision of networks on some batches; those of a trial's images are one (`kd_hpo.data.batches.ImageBatches`)."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all that losses are made of."""
        ...

    def autocast(self) -> AbstractContextManager[object]:
        """Gives what both networks run in."""
        ...
