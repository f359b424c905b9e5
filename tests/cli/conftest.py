"""kd-hpo in this process, in a folder of its own, and what several tests of it start from."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kd_hpo.cli import main
from kd_hpo.study.environment import prepare_environment
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study
from tests.study.helpers import LEARNED, add_search, record, result_of
from tests.study.matrices.test_export import add_trial

prepare_environment()  # before anything imports Ray

MATRIX = ((0.7, 0.0), (0.0, 0.3), (0.0, 0.0))
STUDY = Path(__file__).parents[2] / "studies" / "digits.yaml"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The one line that an error of ours is."""
        assert self.code == 1, self
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err + self.out
        return self.err.removeprefix("error: ").rstrip()


class Command:
    """kd-hpo in this process, in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._capsys, self._monkeypatch, self.folder = capsys, monkeypatch, folder
        monkeypatch.chdir(folder)
        monkeypatch.delenv("KD_HPO_RUNS", raising=False)

    def __call__(self, *arguments: object) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["kd-hpo", *map(str, arguments)])
        try:
            main.main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code or 0
        told = self._capsys.readouterr()
        assert isinstance(code, int)
        return Ended(code, told.out, told.err)


@pytest.fixture
def kd_hpo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return Command(capsys, monkeypatch, tmp_path)


@pytest.fixture
def study(kd_hpo: Command) -> Path:
    path = kd_hpo.folder / "study.yaml"
    path.write_text(STUDY.read_text())
    return path


@pytest.fixture
def exported(kd_hpo: Command, cache: Path) -> Path:
    """An export by hand, over the networks and the cached teacher of the tests."""
    from kd_hpo.study.matrices.export import export_study

    study = digits_study(kd_hpo.folder / "runs")
    folder = StudyFolder.of(study)
    add_trial(folder, "trial-000", result_of([record(1, 0.5)]))
    folder.write_settings(study)
    (study.runs / "cache").symlink_to(cache)
    export_study(study, folder, folder.export, top=1)
    return folder.export


@pytest.fixture
def searched(kd_hpo: Command) -> StudyFolder:
    """Two trials of a search of four have ended."""
    study = digits_study(kd_hpo.folder / "runs", search={"trials": 4}, compare={"methods": ["ce", LEARNED], "seeds": 2})
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    add_search(folder, LEARNED, [0.5, 0.75], MATRIX)
    return folder
