"""The learned matrices of a study as one JSON file that anyone can apply."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import ExportError, StudyError
from kd_hpo.files import write_atomically
from kd_hpo.study.results.arms import answer
from kd_hpo.study.results.best import learned_trials
from kd_hpo.study.results.pairs import from_uniform
from kd_hpo.study.store.export_file import Export, ExportedMatrix, ExportedTeacher, load_export
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.trial.result import RESULT, TOTAL, TrialResult


def trial_export(folder: StudyFolder, status: TrialStatus) -> str | None:
    """Writes the matrix of one trial as an export of its own, in JSON; None unless it was completed and has learned one."""
    if status.state != "completed" or not (folder.trial(status.spec.id) / RESULT).is_file():
        return None
    result = folder.result(status.spec.id)
    if not result.config.weighting.learning:
        return None
    return export_of(folder.root.name, [_exported(folder, 1, status.spec, result)]).model_dump_json(indent=1)


def export_of(study: str, matrices: Sequence[ExportedMatrix]) -> Export:
    """Makes an export of matrices, ranked as they come: the first one is the best."""
    ranked = tuple(matrix.replace(rank=rank) for rank, matrix in enumerate(matrices, 1))
    return Export(study=study, created=datetime.now(UTC).isoformat(timespec="seconds"), matrices=ranked)


def export_study(study: StudyConfig, folder: StudyFolder, path: Path, *, top: int) -> Export:
    """Writes the study's `top` best matrices to `path`. Raises StudyError where no trial has learned one.

    Where an export of the study stands there, how often its test split was opened is still known afterwards.
    """
    learned = learned_trials(study, folder)
    if not learned:
        raise StudyError(f"no completed trial of study {study.name!r} has learned pair weights; see `{folder.resume}`")
    export = export_of(study.name, [_exported(folder, rank, *entry) for rank, entry in enumerate(learned[:top], 1)])
    found = answer(study, folder, study.search.method)
    told = found and {**{n: None if v != v else v for n, v in vars(found).items()}, "learns": found.learns}
    export = export.replace(test_opened=_opened_before(study.name, path), answer=told)
    write_atomically(path, export.model_dump_json(indent=1))
    return export


def _exported(folder: StudyFolder, rank: int, spec: TrialSpec, result: TrialResult) -> ExportedMatrix:
    pairs, metric = result.config.pairs, result.config.task.goal.on("val")
    totals = tuple(record.metrics.get(TOTAL, 1.0) for record in result.records)
    return ExportedMatrix(
        rank=rank,
        trial=spec.id,
        method=spec.method,
        seed=spec.seed,
        weights=result.last.weights,
        held_mean=result.held_mean,
        trajectory=tuple(record.weights for record in result.records),
        totals=() if all(total == 1 for total in totals) else totals,
        updates=result.updates,
        from_uniform=from_uniform(result.held_mean),
        t_values=result.last.t_values,
        scales=result.last.scales,
        teacher_layers=result.teacher_layers,
        student_layers=result.student_layers,
        teacher=ExportedTeacher(
            network=result.config.teacher.network.name,
            weights_sha256=result.teacher_digest,
            val_accuracy=result.teacher_val_accuracy,
        ),
        student=result.config.student.network.name,
        pair_loss={"name": pairs.loss.kind, **pairs.loss.model_dump(exclude={"kind"}), "strength": pairs.strength},
        outer_settings=spec.settings,
        metrics={**result.last.metrics, f"best/{metric}": result.best.metrics[metric]},
        test=folder.test_scores(spec.id),
        split_digests=result.split_digests,
        data_digest=result.data_digest,
        mlflow_run_id=folder.run_id(spec.id, "mlflow"),
        versions=result.versions,
        config=result.config,
    )


def _opened_before(study: str, path: Path) -> int:
    """How often the test split was opened for the export of the study that stands there; 0 where another file does, or none."""
    try:
        there = load_export(path)
    except ExportError:
        return 0
    return there.test_opened if there.study == study else 0
