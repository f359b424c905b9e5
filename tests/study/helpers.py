"""Trials and results made by hand, for tests that need none that has learned."""

from kd_hpo.config.study import Search
from kd_hpo.config.trial import TrialConfig
from kd_hpo.study.store.folder import StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.trial.result import RESULT, EpochRecord, LayerRecord, Rows, TrialResult
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


def add_search(folder: StudyFolder, method: str, accuracies: list[float], weights: Rows = UNIFORM, *, failed: int = 0) -> None:
    """Completed trials of a search over kd.weight, which grows with them; then some that failed before their first epoch."""
    for number, accuracy in enumerate(accuracies):
        settings = {"kd.weight": 1.0 + number, "pairs.loss.kind": "gaussian"}
        spec = TrialSpec(id=f"{method}-t{number:03d}", kind="search", method=method, seed=0, settings=settings)
        add_completed(folder, spec, result_of([record(1, accuracy / 2, weights), record(2, accuracy, weights)]))
    for number in range(len(accuracies), len(accuracies) + failed):
        spec = TrialSpec(id=f"{method}-t{number:03d}", kind="search", method=method, seed=0)
        folder.write_status(TrialStatus(spec=spec, state="failed", message="it diverged"))


def add_completed(folder: StudyFolder, spec: TrialSpec, result: TrialResult) -> None:
    folder.write_status(TrialStatus(spec=spec, state="completed", duration_s=60.0))
    folder.write_records(spec.id, list(result.records))
    (folder.trial(spec.id) / RESULT).write_text(result.model_dump_json())


def add_compared(folder: StudyFolder, method: str, tests: list[float], result: TrialResult) -> None:
    """A completed trial a seed, with these accuracies on test."""
    for seed, test in enumerate(tests):
        spec = TrialSpec(id=f"{method}-s{seed}", kind="compare", method=method, seed=seed)
        add_completed(folder, spec, result)
        folder.write_test_scores(spec.id, TestScores(last=test, best=test))
