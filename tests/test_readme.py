"""The README's Python is run as it stands; its commands name subcommands that exist."""

import json
import re
from pathlib import Path

import pytest
import yaml

from kd_hpo.cli.main import app
from kd_hpo.study.design import trial_config
from kd_hpo.study.folder import TrialSpec
from kd_hpo.study.read import load_study
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_study

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


def test_a_loss_and_a_method_of_ones_own_in_under_20_lines(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's lines as they stand, in the folder that the command is started in; both methods run a trial with the loss."""
    text = README.read_text()
    (loss,) = re.findall(r"\n((?:    .*\n|\n)*    def cka.*\n(?:    .*\n)*)", text)
    (method,) = re.findall(r"\n((?:    .*\n)*.*own_loss:cka.*\n(?:    .*\n)*)", text)
    loss, method = (re.sub("^    ", "", lines, flags=re.MULTILINE).strip("\n") for lines in (loss, method))
    assert len([*loss.splitlines(), *method.splitlines()]) < 20
    (tmp_path / "own_loss.py").write_text(loss)
    small = json.loads(digits_study(tmp_path / "runs").model_dump_json(exclude={"compare"}))
    (tmp_path / "study.yaml").write_text(f"{yaml.safe_dump(small)}\n{method}\n")
    monkeypatch.chdir(tmp_path)
    study = load_study(tmp_path / "study.yaml")
    for name in ("cka", "cka-same-depth"):
        config = trial_config(study, TrialSpec(id=name, kind="compare", method=name, seed=0))
        result = run_trial(config, lambda _: None, cache=cache)
        assert result.last.metrics["train/pairs"] != 0
        assert sum(map(sum, result.held_mean)) == pytest.approx(1, abs=1e-5)


def test_commands_exist() -> None:
    named = set(re.findall(r"\bkd-hpo ([a-z]+)", README.read_text()))
    assert named
    assert named <= {name for command in app for name in app[command].name if not name.startswith("-")} | {"run"}
