"""What the networks are for, and what a study goes by: the settings of kd_hpo.core.tasks, read without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from kd_hpo.config.settings import Settings


@dataclass(frozen=True)
class Goal:
    """A metric that compares epochs and trials, and which way of it is better."""

    metric: str
    """One of those of the task, or loss."""
    mode: Literal["max", "min"]

    def on(self, split: str) -> str:
        """What a record of an epoch calls it."""
        return f"{split}/{self.metric}"

    def merit(self, metrics: Mapping[str, float], split: str = "val") -> float:
        """Of the metrics of an epoch: higher is better."""
        value = metrics[self.on(split)]
        return value if self.mode == "max" else -value


LOSS = Goal("loss", "min")
"""The task's loss, which every task has."""


class Classification(Settings):
    """One class of several for each image."""

    kind: Literal["classification"] = "classification"
    goal: ClassVar[Goal] = Goal("accuracy", "max")


Task = Classification
"""A union told apart by `kind`, once there are more."""
