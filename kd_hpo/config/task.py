"""What the networks are for, and what a study goes by: the settings of kd_hpo.core.tasks, read without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

from kd_hpo.config.settings import Settings


@dataclass(frozen=True)
class Goal:
    """A metric that compares epochs and trials, and which way of it is better."""

    metric: str
    """One of those of the task, or loss."""
    mode: Literal["max", "min"]
    words: str = ""
    """What people call the metric, where that is another name."""

    @property
    def name(self) -> str:
        """As people read it."""
        return self.words or self.metric

    def on(self, split: str) -> str:
        """What a record of an epoch calls it."""
        return f"{split}/{self.metric}"

    def merit(self, metrics: Mapping[str, float], split: str = "val") -> float:
        """Of the metrics of an epoch: higher is better."""
        return self.worth(metrics[self.on(split)])

    def worth(self, value: float) -> float:
        """Of a value of the metric, or of a difference of two: higher is better."""
        return value if self.mode == "max" else -value

    @property
    def worst(self) -> float:
        """No value is worse: what a search is told of a trial whose settings led nowhere."""
        return -inf if self.mode == "max" else inf

    def best(self, values: Iterable[float]) -> float:
        """nan where there is none."""
        return max(values, key=self.worth, default=float("nan"))


class Classification(Settings):
    """One class of several for each image."""

    kind: Literal["classification"] = "classification"
    goal: ClassVar[Goal] = Goal("accuracy", "max")
    """What trials are compared by, where a study does not say that it goes by the loss."""
    loss: ClassVar[Goal] = Goal("loss", "min", "cross-entropy")


Task = Classification
"""A union told apart by `kind`, once there are more."""
