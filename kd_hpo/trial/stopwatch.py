"""How long a part of an epoch took, without making a device wait for it."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch


@dataclass(frozen=True)
class EpochTime:
    """The time of the training steps of one epoch, scoring left out."""

    steps: int
    duration_s: float
    hypergradient_s: float
    """The part of it that lambda's learning took."""


class Stopwatch:
    """Adds up the time inside its `with` blocks: by the clock, or by events of a CUDA device, which works behind the program."""

    def __init__(self, device: torch.device) -> None:
        self._cuda, self._spans = device.type == "cuda", list[tuple[Any, Any]]()

    def __enter__(self) -> Self:
        self._start = self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._spans.append((self._start, self._now()))

    def take_seconds(self) -> float:
        """Gives the sum since the last call; of a CUDA device whose work is done."""
        spans, self._spans = self._spans, []
        return float(sum(start.elapsed_time(end) / 1e3 if self._cuda else end - start for start, end in spans))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
