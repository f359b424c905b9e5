"""The driver's own decisions, without Ray: when a study's name is taken."""

from pathlib import Path

import pytest

from kd_hpo.errors import StudyError
from kd_hpo.study.folder import StudyFolder
from kd_hpo.study.run import settle_settings
from tests.conftest import digits_study


def test_a_study_that_has_begun_keeps_its_settings(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    settle_settings(study, folder)
    folder.optuna.touch()
    settle_settings(study, folder)  # the same again
    with pytest.raises(StudyError, match=r"in .* already, with another seed\. Give this one another name .* kd-hpo resume small"):
        settle_settings(study.replace(seed=1), folder)
    assert folder.read_settings() == study


def test_settings_may_be_mended_before_the_first_trial(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    settle_settings(study, folder)  # and then its data turned out to be missing
    settle_settings(study.replace(seed=1), folder)
    assert folder.read_settings().seed == 1


def test_where_a_study_runs_may_change(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    settle_settings(study, folder)
    folder.optuna.touch()
    settle_settings(study.replace(resources={"max_failures": 3}), folder)
    assert folder.read_settings().resources.max_failures == 3
