"""What the process of a trial prints goes into the trial's log, from wherever it comes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_hpo.errors import StudyError
from kd_hpo.study.run.captured import captured
from kd_hpo.study.store.lease import Lease
from kd_hpo.study.store.trial_log import MOST


def test_all_that_a_process_writes_is_in_the_log_and_passed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before, attempt = (sys.stdout, sys.stderr), Lease.begin(tmp_path)
    with pytest.raises(SystemExit), captured(tmp_path / "log.txt", attempt):
        print("printed")
        print("as a warning", file=sys.stderr)
        os.write(1, b"by a library\n")
        subprocess.run(["echo", "by a child"], check=True)
        raise SystemExit
    told = (tmp_path / "log.txt").read_text().splitlines()
    assert told[0].startswith(f"--- attempt 1 of {tmp_path.name}, in process {attempt.worker}, at ")
    assert told[1:] == ["printed", "as a warning", "by a library", "by a child"]
    assert (sys.stdout, sys.stderr) == before
    print("after")
    said = capfd.readouterr()
    assert "after\n" in said.out and "printed" not in said.out
    assert "by a library\n" in said.err  # where Ray's own logs, and --verbose, have it from
    assert "after" not in (tmp_path / "log.txt").read_text()


def test_a_log_stays_short_and_is_left_to_who_has_taken_the_trial_over(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    with captured(file, Lease.begin(tmp_path)):
        print("x\n" * MOST)
        Lease.begin(tmp_path)
    assert file.stat().st_size > 2 * MOST
    with captured(file, Lease.begin(tmp_path)):
        pass
    assert file.stat().st_size < MOST


def test_no_log_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="symbolic link"), captured(tmp_path / "log.txt", Lease.begin(tmp_path)):
        pass
    assert not (tmp_path / "elsewhere").exists()
