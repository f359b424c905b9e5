"""What is refused of a study that has begun."""

from pathlib import Path

import pytest

from kd_hpo.errors import StudyError
from kd_hpo.study.run.checks import refuse_other_settings
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study


def test_a_study_that_was_kept_with_the_metrics_own_name_goes_on(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    folder.settings.write_text(folder.settings.read_text().replace('"by": "metric"', '"by": "accuracy"'))
    (folder.root / "trials").mkdir()
    assert '"by": "accuracy"' in folder.settings.read_text() and folder.begun
    refuse_other_settings(study, folder)
    with pytest.raises(StudyError, match="already, with another search"):
        refuse_other_settings(digits_study(tmp_path, search={"by": "loss"}), folder)
