"""The command: each mistake is one `error:` line and an exit code, never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_hpo.study.store.folder import StudyFolder
from tests.cli.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.mark.parametrize("command", ["", "run", "compare", "resume", "list", "show", "report", "export", "apply", "ui"])
def test_help_tells_every_command(kd_hpo: Command, command: str) -> None:
    told = kd_hpo(*command.split(), "--help")
    assert (told.code, told.err) == (0, "")
    words = {
        "": ["run", "compare", "resume", "list", "show", "report", "export", "apply", "ui", "--install-completion"],
        "run": ["STUDY_FILE", "--set", "a.b=value", "--json", "--quiet", "-q", "--verbose", "-v"],
        "list": ["--runs", "--json"],
        "show": ["STUDY", "--runs", "--json"],
        "report": ["STUDY", "--output", "-o", ".html", ".md", "--runs"],
        "compare": ["STUDY_FILE", "--methods", "--seeds", "--tune", "--set", "a.b=value"],
        "resume": ["STUDY", "--runs", "KD_HPO_RUNS"],
        "export": ["STUDY", "--top", "--output", "-o", "--runs"],
        "apply": ["EXPORT_FILE", "--rank", "--output", "--set", "--runs"],
        "ui": ["--runs", "--port"],
    }
    assert all(word in told.out for word in words[command]), told.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["rnu", "study.yaml"],
        ["run"],
        ["run", "study.yaml", "more.yaml"],
        ["run", "study.yaml", "--sett", "name=x"],
        ["export", "digits", "--top", "three"],
        ["apply"],
        ["ui", "--port", "http"],
        ["list", "--quiet", "--verbose"],
    ],
    ids=" ".join,
)
def test_command_that_cannot_be_understood_is_exit_code_2(kd_hpo: Command, arguments: list[str]) -> None:
    told = kd_hpo(*arguments)
    assert told.code == 2
    assert "Traceback" not in told.out + told.err
    assert (told.out + told.err).strip()


def test_ctrl_c_is_exit_code_130_without_a_traceback(exported: Path) -> None:
    """In a process of its own, since a signal is: `apply`, once it trains."""
    command = [sys.executable, "-c", "from kd_hpo.cli.main import main; main()"]
    arguments = ["apply", str(exported), "--set", "training.epochs=100000", "--runs", str(exported.parent.parent)]
    applying = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = exported.parent.parent / "applied/small-1"
    while not list(folder.rglob("last.safetensors")):
        assert applying.poll() is None, applying.communicate()
        time.sleep(0.05)
    os.kill(applying.pid, signal.SIGINT)
    out, err = applying.communicate()
    assert applying.returncode == 130
    assert "Traceback" not in out + err


@pytest.mark.parametrize(("into", "told"), [
    ("| true", ""),
    ("--json | true", ""),
    ("> /dev/full", "error: No space left on device\n"),
])  # fmt: skip
def test_output_that_nobody_takes_is_no_traceback(into: str, told: str) -> None:
    command = f"{sys.executable} -c 'from kd_hpo.cli.main import main; main()' networks {into}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, told)


def test_error_leaves_standard_output_empty(kd_hpo: Command, searched: StudyFolder) -> None:
    told = kd_hpo("show", "smal", "--json")
    assert told.out == "" and told.error.startswith("no study 'smal'")


def test_verbose_tells_where_an_error_was_raised(kd_hpo: Command, searched: StudyFolder) -> None:
    told = kd_hpo("show", "smal", "--verbose")
    assert told.code == 1
    assert "read_settings" in told.err and told.err.splitlines()[-1].startswith("error: no study 'smal'")


def test_json_survives_a_terminal_of_any_width(kd_hpo: Command, searched: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert json.loads(kd_hpo("show", "small", "--json").out)["study"] == "small"
