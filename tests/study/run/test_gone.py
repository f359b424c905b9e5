"""Trials whose folder was deleted are told of, and whether they are run again."""

import shutil
from pathlib import Path

from kd_hpo.study.run.gone import gone
from kd_hpo.study.search.journal import known_trials
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study
from tests.study.search.searches import EPOCHS, driver, on_disk, result, suggested


def test_a_trial_of_a_search_that_was_deleted_is_named(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    search = driver(folder)
    spec = suggested(search, "a")
    on_disk(folder, spec, "completed", [0.1] * EPOCHS)
    search.on_trial_complete("a", result(EPOCHS, 0.4))
    assert len(known_trials(folder, "kd")) == 1
    searched = {"kd": None}
    assert list(gone(study, folder, searched)) == []  # type: ignore[arg-type]
    shutil.rmtree(folder.trial(spec.id))
    (line,) = gone(study, folder, searched)  # type: ignore[arg-type]
    assert spec.id in line and "not run again" in line
