from pathlib import Path

import pytest

from kd_hpo.study.store.folder import StudyFolder


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "study")
