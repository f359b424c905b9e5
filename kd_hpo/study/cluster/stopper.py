"""Ends a phase of a study that cannot go on: Ray would hide that its folder cannot be written, and wait for nodes for ever."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.tune import Stopper

from kd_hpo.errors import StudyError
from kd_hpo.files import naming

_LOOKS_EVERY_S = 2.0


class StudyStopper(Stopper):  # type: ignore[misc]
    """Keeps the first OSError of the driver's own writing, or that Ray has no node left; has Ray stop all trials then."""

    def __init__(self) -> None:
        self.error: OSError | StudyError | None = None
        self._looked_at = time.monotonic()

    @contextmanager
    def on_error(self, path: Path) -> Iterator[None]:
        """Keeps an OSError of what is written inside at `path`, which ends the phase."""
        try:
            with naming(path):
                yield
        except OSError as error:
            self.error = self.error or error

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.error is None and time.monotonic() - self._looked_at > _LOOKS_EVERY_S:
            self._looked_at = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):
                self.error = StudyError("Ray has lost its last node. What had ended is kept; continue with kd-hpo resume")
        return self.error is not None
