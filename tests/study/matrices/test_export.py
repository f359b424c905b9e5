"""Exports: which matrices of a study, in which order, with all that they came from."""

from pathlib import Path

import pytest

from kd_hpo.errors import StudyError
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.matrices.forms import applied_config
from kd_hpo.study.store.export_file import Export, load_export
from kd_hpo.study.store.folder import StudyFolder, TestScores
from kd_hpo.trial.result import TOTAL
from tests.conftest import digits_study, digits_trial
from tests.study.exports import add_trial
from tests.study.helpers import UNIFORM, record, result_of

HELD = ((0.25, 0.25), (0.0, 0.25), (0.25, 0.0))


def test_the_mean_over_held_epochs_is_exported_beside_the_last_matrix_and_applied(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder, corner = StudyFolder.of(study), ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    add_trial(folder, "trial-000", result_of([record(1, 0.5), record(2, 0.7, corner)]).replace(held_mean=HELD))
    (entry,) = export_study(study, folder, tmp_path / "lambda.json", top=1).matrices
    assert (entry.weights, entry.held_mean) == (corner, HELD)
    assert applied_config(entry, []).weighting.matrix == HELD  # type: ignore[union-attr]


def test_the_trajectory_is_that_of_the_records_with_the_strengths_that_were_learned(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder, corner = StudyFolder.of(study), ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    records = [record(1, 0.5), record(2, 0.7, corner)]
    add_trial(folder, "trial-000", result_of(records))
    (entry,) = export_study(study, folder, tmp_path / "lambda.json", top=1).matrices
    assert (entry.trajectory, entry.totals) == ((UNIFORM, corner), ())
    learned = [each.replace(metrics={**each.metrics, TOTAL: total}) for each, total in zip(records, (1.0, 0.5), strict=True)]
    add_trial(folder, "trial-000", result_of(learned))
    assert export_study(study, folder, tmp_path / "lambda.json", top=1).matrices[0].totals == (1.0, 0.5)


def test_an_export_that_is_written_again_still_knows_how_often_test_was_opened(tmp_path: Path) -> None:
    study, path = digits_study(tmp_path), tmp_path / "lambda.json"
    folder = StudyFolder.of(study)
    add_trial(folder, "trial-000", result_of([record(1, 0.5)]))
    assert export_study(study, folder, path, top=1).test_opened == 0
    path.write_text(load_export(path).replace(test_opened=2).model_dump_json())
    assert export_study(study, folder, path, top=1).test_opened == load_export(path).test_opened == 2
    path.write_text(load_export(path).replace(study="another").model_dump_json())
    assert export_study(study, folder, path, top=1).test_opened == 0


def test_best_by_last_epoch_comes_first_and_the_way_back_is_whole(exported: Path) -> None:
    export = load_export(exported)
    assert [(entry.rank, entry.trial) for entry in export.matrices] == [(1, "trial-001"), (2, "trial-000")]
    best, second = export.matrices
    assert best.weights == best.held_mean == ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
    assert [layer.name for layer in best.teacher_layers] == ["conv1", "conv2", "fc"]
    assert (best.mlflow_run_id, best.test, best.outer_settings) == ("run", TestScores(last=0.4, best=0.5), {"kd.weight": 1.5})
    assert (second.mlflow_run_id, second.test) == (None, None)
    assert second.metrics["val/accuracy"] == 0.6 and second.metrics["best/val/accuracy"] == 0.8
    variance = {"kind": "learned", "start": 0.7, "floor": 1e-3}
    assert best.pair_loss == {"name": "gaussian", "regressor": "linear", "variance": variance, "strength": 3.0}
    assert best.config == digits_trial()
    assert Export.model_validate_json(export.model_dump_json()) == export


def test_top_is_the_number_of_matrices(exported: Path, tmp_path: Path) -> None:
    root = exported.parent.parent
    study = digits_study(root.parent)
    assert [entry.trial for entry in export_study(study, StudyFolder(root), tmp_path / "one.json", top=1).matrices] == [
        "trial-001"
    ]


def test_study_that_learned_nothing_has_nothing_to_export(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    add_trial(StudyFolder.of(study), "trial-000", result_of([record(1, 0.9)]), state="stopped")
    with pytest.raises(
        StudyError, match=r"no completed trial of study 'small' has learned pair weights; see `kd-hpo resume small"
    ):
        export_study(study, StudyFolder.of(study), tmp_path / "out.json", top=1)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("by", "unlabelled", "expected"),
    [
        ("accuracy", "extra", ["sure", "right"]),
        ("loss", "extra", ["right", "sure"]),
        ("agreement", None, ["right", "sure"]),
        ("agreement", "extra", ["sure", "right"]),
    ],
)
def test_best_is_what_the_search_goes_by(tmp_path: Path, by: str, unlabelled: str | None, expected: list[str]) -> None:
    study = digits_study(tmp_path, search={"by": by}, data={"kind": "digits", "unlabelled": unlabelled})
    folder = StudyFolder.of(study)
    for trial, accuracy, loss in (("sure", 0.7, 1.5), ("right", 0.6, 0.9)):
        last, far = record(1, accuracy), {"val/loss": loss, "val/agreement": loss / 2, "unlabelled/agreement": 1 - loss / 2}
        add_trial(folder, trial, result_of([last.replace(metrics=last.metrics | far)]))
    export = export_study(study, folder, tmp_path / "out.json", top=2)
    assert [(entry.rank, entry.trial) for entry in export.matrices] == [(1, expected[0]), (2, expected[1])]


def test_run_of_another_tracker_is_not_told_as_mlflows(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    add_trial(folder, "trial-000", result_of([record(1, 0.8)]))
    folder.write_run_id("trial-000", "another", "run")
    assert export_study(study, folder, tmp_path / "out.json", top=1).matrices[0].mlflow_run_id is None
