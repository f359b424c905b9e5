"""What a matrix of an export is applied with."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from kd_hpo.errors import ExportError
from kd_hpo.study.matrices.apply import applied_config, apply_matrix, matrix_of_rank
from kd_hpo.study.store.export_file import load_export
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.result import RESULT, TOTAL, TrialResult


def test_applied_trial_has_the_held_mean_and_the_layers(exported: Path) -> None:
    entry = matrix_of_rank(load_export(exported), 1)
    config = applied_config(entry, ("training.epochs=7",))
    assert config.training.epochs == 7
    assert config.weighting.model_dump() == {"kind": "fixed", "matrix": entry.held_mean}
    assert config.pairs.strength == entry.config.pairs.strength
    with pytest.raises(ExportError, match="the export has no matrix of rank 3; it has 1, 2"):
        matrix_of_rank(load_export(exported), 3)


def test_a_strength_that_was_learned_is_applied(exported: Path) -> None:
    entry = matrix_of_rank(load_export(exported), 1)
    learned = entry.replace(metrics=entry.metrics | {TOTAL: 0.4})
    assert applied_config(learned, ()).pairs.strength == pytest.approx(0.4 * entry.config.pairs.strength)


def test_splits_that_are_recorded_are_those_that_trained(exported: Path, tmp_path: Path, cache: Path, prepared: Prepared) -> None:
    """train and outer are one: the digest is that of their images, and outer has none."""
    together = np.sort(np.concatenate([prepared.splits.train, prepared.splits.outer]))
    expected = {"train": hashlib.sha256(together.astype("<i8").tobytes()).hexdigest()[:16]}
    expected["outer"] = hashlib.sha256(b"").hexdigest()[:16]
    applied = apply_matrix(
        load_export(exported),
        rank=1,
        overrides=["training.epochs=1"],
        folder=tmp_path,
        cache=cache,
        report=lambda _: None,
        progress=lambda _: None,
    )
    assert applied.result.split_digests == {**prepared.splits.digests, **expected}
    assert TrialResult.model_validate_json((tmp_path / RESULT).read_bytes()) == applied.result
