"""The README's Python is run as it stands; its commands name subcommands that exist."""

import re
from pathlib import Path

import pytest

from kd_hpo.cli import app

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"\n\n((?:    (?!kd-hpo|make).*\n|\n)*    print\(result\.held_mean\).*\n)", README.read_text())
    code = re.sub("^    ", "", example, flags=re.MULTILINE)
    study = README.with_name("studies") / "digits.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    text = (
        study.read_text()
        .replace("epochs: 20", "epochs: 2")
        .replace("epochs: 15", "epochs: 1")
        .replace("grace_epochs: 6", "grace_epochs: 1")
    )
    (tmp_path / "studies" / "digits.yaml").write_text(text)
    exec(compile(code, "README.md", "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[:2]] == ["1", "2"]
    assert told[2].startswith("((")


def test_commands_exist() -> None:
    named = set(re.findall(r"\bkd-hpo ([a-z]+)", README.read_text()))
    assert named
    assert named <= {name for command in app for name in app[command].name if not name.startswith("-")} | {"run"}
