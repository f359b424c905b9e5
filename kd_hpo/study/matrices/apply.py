"""Trains a student with an exported matrix, held fixed, on the train and outer splits together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from kd_hpo.config.read import validated
from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.weightings import FixedMatrix
from kd_hpo.errors import ExportError
from kd_hpo.files import write_atomically
from kd_hpo.nets.features import LOGITS
from kd_hpo.study.results.final_scores import student_on_test
from kd_hpo.study.store.export_file import Export, ExportedMatrix
from kd_hpo.study.store.folder import TestScores
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.result import RESULT, TOTAL, EpochRecord, TrialResult
from kd_hpo.trial.run import run_trial


@dataclass(frozen=True)
class Applied:
    result: TrialResult
    test: TestScores
    weights: Path
    same_teacher: bool
    """Whether the teacher's weights are those that the matrix was learned with."""


def apply_matrix(
    export: Export,
    *,
    rank: int,
    overrides: Sequence[str],
    folder: Path,
    cache: Path,
    report: Callable[[EpochRecord], None],
    progress: Callable[[str], None],
) -> Applied:
    """Trains the student of the export's matrix of that rank; the weights go to `folder` as safetensors.

    Raises ExportError for a rank that is not there, FeatureMismatch for layers that the networks do not have.
    """
    entry = matrix_of_rank(export, rank)
    config = applied_config(entry, overrides)
    prepared = prepare(config, cache, progress, outer_trains=True)
    result = run_trial(config, report, cache=cache, folder=folder, prepared=prepared)
    write_atomically(folder / RESULT, result.model_dump_json(indent=1))
    test = student_on_test(config, folder, prepared)
    write_atomically(folder / "test.json", test.model_dump_json())
    return Applied(result, test, folder / LAST_WEIGHTS, prepared.teacher_digest == entry.teacher.weights_sha256)


def matrix_of_rank(export: Export, rank: int) -> ExportedMatrix:
    for entry in export.matrices:
        if entry.rank == rank:
            return entry
    raise ExportError(f"the export has no matrix of rank {rank}; it has {', '.join(str(e.rank) for e in export.matrices)}")


def applied_config(entry: ExportedMatrix, overrides: Sequence[str]) -> TrialConfig:
    """The trial that the matrix was learned in, with its layers and the matrix itself fixed, then the overrides."""
    data = entry.config.model_dump(mode="json")
    refuse_code(data, overrides)
    data["weighting"] = FixedMatrix(matrix=entry.held_mean).model_dump(mode="json")
    data["pairs"]["strength"] *= entry.metrics.get(TOTAL, 1.0)  # where it was learned beside the matrix
    teaches = data["assistants"][-1] if data["assistants"] else data["teacher"]
    teaches["layers"] = [layer.name for layer in entry.teacher_layers if layer.name != LOGITS]
    data["student"]["layers"] = [layer.name for layer in entry.student_layers if layer.name != LOGITS]
    return validated(TrialConfig, data, overrides, name="the export's configuration")


def refuse_code(data: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Raises ExportError where the file names code to import that the user has not named too: no file runs code by itself."""
    given = [override.partition("=")[0].strip() for override in overrides]
    for path, reference in _named_code(data):
        if not any(path == start or path.startswith(f"{start}.") for start in given):
            raise ExportError(
                f"the export names code to run, {path} = {reference!r}, and a file may not run code by itself. "
                f"If you trust it, name it yourself: --set {quote(f'{path}={reference}')}"
            )


def _named_code(data: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every `package.module:callable` in the settings, wherever one may stand, with its dotted path."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            here = f"{path}.{key}".lstrip(".")
            if isinstance(value, str) and (key == "callable" or (key == "name" and ":" in value)):
                yield here, value
            yield from _named_code(value, here)
    elif isinstance(data, Sequence) and not isinstance(data, str):
        for index, value in enumerate(data):
            yield from _named_code(value, f"{path}.{index}")
