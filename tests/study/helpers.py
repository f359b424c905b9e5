"""Trials and results made by hand, for tests that need none that has learned."""

from kd_hpo.config.study import Search
from kd_hpo.config.trial import TrialConfig
from kd_hpo.trial.result import EpochRecord, LayerRecord, TrialResult
from tests.conftest import digits_trial

LEARNED = Search().method
"""The method that learns lambda."""
T, S = 3, 2  # layers of digits_trial
UNIFORM = tuple((1 / 6,) * S for _ in range(T))


def record(epoch: int, accuracy: float, weights: tuple[tuple[float, ...], ...] = UNIFORM, *, held: bool = True) -> EpochRecord:
    metrics = {"val/accuracy": accuracy, "val/loss": 1 - accuracy, "train/loss": 0.5, "weights/entropy": 1.0}
    return EpochRecord(epoch=epoch, metrics=metrics, weights=weights, scales=weights, held=held)


def result_of(records: list[EpochRecord], config: TrialConfig | None = None) -> TrialResult:
    config = config or digits_trial()
    return TrialResult(
        config=config,
        teacher_layers=tuple(LayerRecord(name=name, shape=(8, 8, 8)) for name in config.teacher.layers),
        student_layers=tuple(LayerRecord(name=name, shape=(4, 8, 8)) for name in config.student.layers),
        teacher_digest="t" * 64,
        teacher_val_accuracy=0.9,
        split_digests={"train": "a", "outer": "b", "val": "c", "test": "d"},
        data_digest="e",
        records=tuple(records),
        held_mean=records[-1].weights,
        versions={"python": "3.11"},
    )
