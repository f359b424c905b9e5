"""The teacher's features of the session's cache, where a test may spoil them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from kd_hpo.data.batches import Indices
from kd_hpo.data.teacher_targets import TeacherReader, cached_targets, teacher_reader
from kd_hpo.trial.parts import Prepared


def copied_targets(cache: Path, there: Path, prepared: Prepared) -> tuple[Indices, TeacherReader, Path]:
    """Images, the reader, and the folder below `there` that holds what the reader said of them."""
    reader = reader_of(prepared, cache)
    images = np.concatenate([prepared.splits.train, prepared.splits.outer])
    for folder in cache.glob("teacher-*"):  # other tests of the session may have targets of their own there
        if folder.is_dir() and not folder.name.startswith("teacher-targets-"):
            shutil.copytree(folder, there / folder.name)
    cached_targets(reader, images, there)
    (found,) = there.glob("teacher-targets-*")
    return images, reader, found


def reader_of(prepared: Prepared, cache: Path) -> TeacherReader:
    plan = prepared.plan
    return teacher_reader(
        prepared.teacher.network,
        [layer.name for layer in plan.teacher],
        prepared.batches,
        prepared.splits.train,
        [replace(layer) for layer in plan.student],
        logits_pair=False,
        meet=True,
        standardised=True,
        cache=cache,
    )
