"""What a trial reports and returns: frozen, JSON, complete enough to be exported."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import PrivateAttr

from kd_hpo.config.settings import Settings
from kd_hpo.config.trial import TrialConfig

if TYPE_CHECKING:
    from torch import nn

RESULT = "result.json"
"""Where a trial's folder has it."""
TOTAL = "weights/total"
"""What the strength of the pairs was multiplied by, 1 where it was neither learned nor follows a schedule."""
KNOWN, KNOWN_FROM = "weights/known", 2.0
"""How many pairs are known to help more or less than the middle one, where lambda moves on evidence: by |t| above two."""

Rows = tuple[tuple[float, ...], ...]


class LayerRecord(Settings):
    name: str
    shape: tuple[int, int, int]
    """Channels, height, width; of a teacher, the channels that vary."""


class EpochRecord(Settings):
    """One epoch: its metrics by name, the (T, S) pair weights at its end and the scales of the pairs' gradients."""

    epoch: int
    """Counts from 1: the number of epochs trained."""
    metrics: dict[str, float]
    weights: Rows
    scales: Rows
    held: bool
    """Whether the weights stand still from the start of the epoch to the trial's end."""
    t_values: Rows = ()
    """(T, S): how many standard errors a pair's help stands above the middle one's, 0 where it is not known yet; empty where
    lambda does not move on evidence, and in results of earlier versions."""


class TrialResult(Settings):
    """A completed trial: what it was, and what it reported each epoch.

    held_mean  lambda (T, S), rows are teacher layers and columns student layers, in the order of `teacher_layers` and
               `student_layers`: the mean over the epochs in which it was held still, sum 1; empty without pairs
    records    an epoch each, oldest first; of classification, accuracies are shares in [0, 1] and losses are in nats
    teacher_val_accuracy  the teacher's value of the task's metric on `val`, of whichever task
    """

    schema_version: Literal[1] = 1
    config: TrialConfig
    teacher_layers: tuple[LayerRecord, ...]
    student_layers: tuple[LayerRecord, ...]
    teacher_digest: str
    teacher_val_accuracy: float
    split_digests: dict[str, str]
    data_digest: str
    records: tuple[EpochRecord, ...]
    held_mean: Rows
    updates: int | None = None
    """How often lambda was updated; None where it is not learned, and in results of earlier versions."""
    versions: dict[str, str]
    _student: Any = PrivateAttr(default=None)

    @property
    def student(self) -> "nn.Module | None":
        """The student as it was trained, in the process that trained it; None where the result was read from a file."""
        found: nn.Module | None = self._student
        return found

    def with_student(self, student: "nn.Module") -> Self:
        """Keeps the trained student beside the result; it is no part of what is written."""
        self._student = student
        return self

    def __eq__(self, other: object) -> bool:
        """Whether all that is written is the same: the student beside it is not asked."""
        return isinstance(other, TrialResult) and vars(self) == vars(other)

    @property
    def last(self) -> EpochRecord:
        return self.records[-1]

    @property
    def best(self) -> EpochRecord:
        """The epoch that is best on `val` by the task's goal; the earliest where several tie."""
        return max(self.records, key=lambda record: self.config.task.goal.merit(record.metrics))
