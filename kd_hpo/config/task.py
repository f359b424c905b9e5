"""What the networks are for, and what a study goes by: the settings of kd_hpo.core.tasks, read without torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from kd_hpo.config.settings import Settings


@dataclass(frozen=True)
class Goal:
    """A metric that compares epochs and trials, and which way of it is better."""

    metric: str
    """One of those of the task, loss, or agreement."""
    mode: Literal["max", "min"]
    words: str = ""
    """What people call the metric, where that is another name."""
    split: Literal["val", "unlabelled"] = "val"
    """The images that it compares on."""

    @property
    def name(self) -> str:
        """The metric's name, as people read it."""
        return self.words or self.metric

    def on(self, split: str) -> str:
        """Gives the key under which the record of an epoch has the metric."""
        return f"{split}/{self.metric}"

    @property
    def key(self) -> str:
        """The key under which the record of an epoch has what epochs and trials are compared by."""
        return self.on(self.split)

    def merit(self, metrics: Mapping[str, float]) -> float:
        """Gives a number that is higher where the metrics of an epoch are better."""
        return self.worth(metrics[self.key])

    def worth(self, value: float) -> float:
        """Gives a number that is higher where a value of the metric, or a difference of two, is better."""
        return value if self.mode == "max" else -value

    @property
    def worst(self) -> float:
        """The value than which none is worse: what a search is told of a trial whose settings led nowhere."""
        return -inf if self.mode == "max" else inf

    def best(self, values: Iterable[float]) -> float:
        """Gives the best of the values; nan where there is none."""
        return max(values, key=self.worth, default=float("nan"))


class _GoalOfMetric:
    """Higher values of the metric that the settings name are better; of the class itself, of the metric by default."""

    def __get__(self, settings: "Classification | None", kind: "type[Classification]") -> Goal:
        metric: str = kind.model_fields["metric"].default if settings is None else settings.metric
        return Goal(metric, "max", metric.replace("_", " ") if "_" in metric else "")


class Classification(Settings):
    """The task of telling one class of several for each image."""

    kind: Literal["classification"] = "classification"
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1"] = "accuracy"
    """What epochs, trials and methods are compared by: the share of images that is right; the mean over the classes of that
    share, where each counts the same however rare it is; or the mean over the classes of F1. All three are reported."""
    class_weights: Literal["none", "balanced"] | Annotated[tuple[PositiveFloat, ...], Field(min_length=2)] = "none"
    """What an image counts in the loss, by its class: balanced weighs it by N / (K n), of N train images and n of its class of K;
    or a number a class, in the order of the data's classes. Of the teacher's training too, and of the loss that is reported."""
    goal: ClassVar[_GoalOfMetric] = _GoalOfMetric()
    """What trials are compared by, where a study does not say that it goes by the loss."""
    loss: ClassVar[Goal] = Goal("loss", "min", "cross-entropy")
    agreement: ClassVar[Goal] = Goal("agreement", "min", "KL to the teacher")

    def remarks(self, counts: Mapping[str, int]) -> list[str]:
        """Tells what should be known of data with so many train images of each class."""
        total, often = sum(counts.values()), max(counts, key=lambda name: counts[name])
        share = counts[often] / total
        if self.metric != "accuracy" or share - 1 / len(counts) < _UNEVEN:
            return []
        weights = ", and task.class_weights: balanced trains for that" if self.class_weights == "none" else ""
        return [
            f"{share:.0%} of the train images are {often}, one of {len(counts)} classes: who always says so has an accuracy of "
            f"{share:.2f}; task.metric: balanced_accuracy or macro_f1 counts every class the same{weights}"
        ]


_UNEVEN = 0.25
"""How far the share of a class may lie above an even one."""


Task = Classification
"""A union told apart by `kind`, once there are more."""
