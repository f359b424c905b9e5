"""How many trials of the searches are still to be run."""

from pathlib import Path

import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.study.design.trials import searches
from kd_hpo.study.run.searching import searches_left
from kd_hpo.study.search.budget import Budget
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study
from tests.study.search.searches import EPOCHS, SPACE, driver, on_disk, result, suggested

KD = "kd"


def study_of(tmp_path: Path, **search: object) -> StudyConfig:
    return digits_study(tmp_path, search={"trials": 3, "method": KD, "space": SPACE, **search})


def ended(study: StudyConfig, running: int) -> StudyFolder:
    """A search of three trials of which one has ended, and so many run."""
    folder = StudyFolder.of(study)
    searcher = driver(folder, trials=3)
    specs = [suggested(searcher, ray_id) for ray_id in "abc"[: 1 + running]]
    on_disk(folder, specs[0], "completed", [0.5] * EPOCHS)
    searcher.on_trial_complete("a", result(EPOCHS, 0.5))
    return folder


@pytest.mark.parametrize("running", [0, 1, 2])
def test_what_has_not_ended_is_left(tmp_path: Path, running: int) -> None:
    study = study_of(tmp_path)
    folder = ended(study, running)
    searched = {KD: searches(study, (3, 2))[KD]}
    assert searches_left(study, folder, searched) == 2
    assert searches_left(study, folder, {}) == 0


@pytest.mark.parametrize("running", [0, 1, 2])
def test_where_a_budget_is_used_up_only_what_runs_is_left(tmp_path: Path, running: int) -> None:
    study = study_of(tmp_path, until=0.4)
    folder = ended(study, running)
    assert Budget(study, folder).over
    assert searches_left(study, folder, {KD: searches(study, (3, 2))[KD]}) == running
