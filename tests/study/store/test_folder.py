"""The study's folder: what is written is read back, one process drives it."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kd_hpo.errors import ConfigError, StudyError
from kd_hpo.study.store.folder import State, StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.trial.result import EpochRecord
from tests.conftest import digits_study

ODD = [
    "1e-3",
    "yes",
    "null",
    "~",
    "0x10",
    "12:30",
    " a: b # c ",
    "'\"",
    "a\nb\tc",
    "λ → é 😀",
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeff",
]


@pytest.mark.parametrize("odd", ODD, ids=map(ascii, ODD))
def test_settings_are_read_back_as_they_were(tmp_path: Path, odd: str) -> None:
    methods = [{"name": "other", "base": "kd", "set": {"kd.weight": 1e-05, "teacher.network.arguments": {"odd": odd, odd: None}}}]
    study = digits_study(tmp_path, compare={"methods": methods, "seeds": 1})
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    assert folder.read_settings() == study


def test_a_folder_that_has_moved_is_the_study_still(tmp_path: Path) -> None:
    study = digits_study(tmp_path / "here")
    StudyFolder.of(study).write_settings(study)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = StudyFolder(tmp_path / "there" / "small").read_settings()
    assert moved == study.replace(runs=tmp_path / "there")


def test_unknown_study_names_those_that_exist(tmp_path: Path) -> None:
    for name in ("digits", "cifar"):
        study = digits_study(tmp_path, name=name)
        StudyFolder.of(study).write_settings(study)
    (tmp_path / "cache").mkdir()
    with pytest.raises(
        StudyError, match=r"no study 'digit' in .*; there are cifar, digits; did you mean digits\? Start one with `kd-hpo run"
    ):
        StudyFolder(tmp_path / "digit").read_settings()
    with pytest.raises(StudyError, match=r"no study 'x' in .*/empty\. Start one"):
        StudyFolder(tmp_path / "empty" / "x").read_settings()


def test_broken_settings_are_named(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "small")
    folder.root.mkdir()
    folder.settings.write_text("{name: small, seeed: 3}")
    with pytest.raises(ConfigError, match=r"study\.yaml:1: .*seeed"):
        folder.read_settings()


def status_of(trial: str, state: State = "running", **settings: object) -> TrialStatus:
    spec = TrialSpec(id=trial, kind="search", method="learned", seed=1, settings=settings)
    return TrialStatus(spec=spec, state=state, message="why\n'λ'", duration_s=1.5)


def test_statuses_come_back_by_id(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    written = [
        status_of("trial-001", "failed"),
        status_of("ce-s0"),
        status_of("trial-000", "completed", **{"a.b": [1, "x", None]}),
    ]
    for status in written:
        folder.write_status(status)
    folder.trial("trial-002").mkdir()  # nothing in it yet
    assert folder.statuses() == sorted(written, key=lambda status: status.spec.id)
    assert folder.status("trial-001") == written[0]
    assert folder.status("trial-002") is None
    folder.write_status(written[0].replace(state="running"))
    assert folder.status("trial-001") == written[0].replace(state="running")


def test_what_a_trial_has_not_written_is_none(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert (folder.records("t"), folder.run_id("t", "mlflow"), folder.test_scores("t")) == ([], None, None)
    record = EpochRecord(epoch=1, metrics={"val/accuracy": 0.1}, weights=((0.25, 0.75),), scales=((1.0, 0.0),), held=False)
    folder.write_records("t", [record])
    folder.write_run_id("t", "mlflow", "abc")
    folder.write_test_scores("t", TestScores(last=0.5, best=0.6))
    assert (folder.records("t"), folder.run_id("t", "mlflow")) == ([record], "abc")
    assert folder.test_scores("t") == TestScores(last=0.5, best=0.6)


def test_second_driver_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from kd_hpo.study.environment import prepare_environment
prepare_environment()
from kd_hpo.study.store.folder import StudyFolder
with StudyFolder(Path(sys.argv[1])).only_driver():
    print("driving", flush=True)
    sys.stdin.read()
"""
    folder = StudyFolder(tmp_path / "small")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "driving\n"
        with pytest.raises(StudyError, match="'small' is being run by another process"), folder.only_driver():
            pass
        first.kill()
        first.wait()
        with folder.only_driver():
            entered = True
    assert entered


def test_run_belongs_to_one_tracker(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_run_id("t", "mlflow", "abc")
    assert (folder.run_id("t", "mlflow"), folder.run_id("t", "another")) == ("abc", None)
    folder.write_run_id("t", "another", "7")
    assert (folder.run_id("t", "mlflow"), folder.run_id("t", "another")) == (None, "7")


def test_run_of_a_folder_written_before_is_mlflows(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.trial("t").mkdir(parents=True)
    (folder.trial("t") / "mlflow_run_id").write_text("abc")
    assert (folder.run_id("t", "mlflow"), folder.run_id("t", "another")) == ("abc", None)
    folder.write_run_id("t", "mlflow", "def")
    assert folder.run_id("t", "mlflow") == "def"


def test_times_of_epochs_do_not_run_back_with_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StudyFolder(tmp_path)
    epochs = [EpochRecord(epoch=n, metrics={"val/accuracy": 0.1}, weights=(), scales=(), held=False) for n in (1, 2, 3)]
    for told, at in ((1, 5_000), (2, 3_000), (3, 6_000)):
        monkeypatch.setattr("time.time_ns", lambda at=at: at * 10**6)
        folder.write_records("t", epochs[:told])
    assert folder.times("t") == [5_000, 5_000, 6_000]


@pytest.mark.parametrize("runs", ["runs", "my runs", "it's; here", 'a"b', "$HOME `x`", "λ"])
def test_printed_command_is_of_this_folder_as_a_shell_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    monkeypatch.chdir(tmp_path)
    program, command, name, *option = shlex.split(StudyFolder(tmp_path / runs / "small").resume)
    assert (program, command, name) == ("kd-hpo", "resume", "small")
    assert option == ([] if runs == "runs" else ["--runs", str(tmp_path / runs)])
