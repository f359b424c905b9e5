"""The README's Python is run as it stands, and every command of it too, on studies cut short."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
import yaml

from kd_hpo.cli import serve
from kd_hpo.cli.main import app, main
from kd_hpo.cli.servers import Server
from kd_hpo.config.methods import METHODS
from kd_hpo.study import environment
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.design.trials import trial_config
from kd_hpo.study.store.folder import TrialSpec
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_study
from tests.distiller.loops import Net, batch, loop_of

environment.prepare_environment()  # before anything imports Ray

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"\n\n((?:    (?!kd-hpo|make).*\n|\n)*    print\(result\.held_mean\).*\n)", README.read_text())
    code = re.sub("^    ", "", example, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    write_short_study(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[:2]] == ["1", "2"]
    assert told[2].startswith("((")


def test_the_loop_of_ones_own_runs(capsys: pytest.CaptureFixture[str]) -> None:
    section = README.read_text().split("### In a training loop")[1]
    (example,) = re.findall(r"\n\n((?:    .*\n|\n)*    print\(kd\.layers, kd\.weights\)\n)", section)
    code = re.sub("^    ", "", example, flags=re.MULTILINE)
    kd, student, optimizer = loop_of()
    kd.close()
    train, held_out = [batch(number) for number in range(3)], repeat(batch(50))
    given = {"teacher": Net(5, 0), "student": student, "optimizer": optimizer, "epochs": 1, "train": train, "held_out": held_out}
    exec(compile(code, "README.md", "exec"), {**given, "F": torch.nn.functional})
    assert capsys.readouterr().out.startswith("((")


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


# ---- the commands, one after another in one folder

SHORTER = {"epochs: 100": "epochs: 2", "epochs: 20": "epochs: 1", "grace_epochs: 25": "grace_epochs: 1", "trials: 8": "trials: 2"}
SHORTER |= {"seeds: 3": "seeds: 1", "ce, kd, uniform, hetero": "kd, hetero"}
"""What is replaced in studies/digits.yaml, so that it takes seconds."""


def write_short_study(folder: Path) -> None:
    text = (README.parent / "studies" / "digits.yaml").read_text()
    for long, short in SHORTER.items():
        assert long in text, f"studies/digits.yaml has no {long!r} any more; mend SHORTER"
        text = text.replace(long, short)
    (folder / "studies").mkdir()
    (folder / "studies" / "digits.yaml").write_text(text)
    shutil.copy(README.parent / "studies" / "seed_cifar10.yaml", folder / "studies")


ELSEWHERE = {
    "make demo": ".ci/run and the Makefile; it is the first command of RUN after an installation",
    "make test": ".ci/run",
    "kd-hpo submit studies/digits.yaml --address http://HEAD:8265 --set runs=/shared/runs "
    "--set tracking.uri=http://MLFLOW:5000": "tests/service/test_cluster.py, which has nodes to send it to",
    "kd-hpo run STUDY --address auto": "tests/service/test_cluster.py",
    "kd-hpo bench studies/digits.yaml": "tests/cli/test_bench.py, without the minute of a C++ compiler",
    "kd-hpo resume NAME": "tests/service/test_faults_driver.py, and RUN with a name",
    "kd-hpo logs NAME TRIAL -f": "tests/cli/test_logs.py, and RUN with names",
    "kd-hpo resume NAME --set search.trials=40": "tests/study/run/test_driver.py",
    "kd-hpo resume NAME --retry-failed": "tests/service/test_faults_driver.py",
}
"""Commands of the README that no test runs, and what does."""


def as_it_stands(run: Callable[..., str], command: str) -> str:
    return run(*shlex.split(command)[1:])


def opened(run: Callable[..., str], command: str) -> str:
    """Servers are about to start."""
    with pytest.MonkeyPatch.context() as patch:
        started: list[Server] = []
        patch.setattr(environment, "require_free_port", lambda *_: None)
        patch.setattr(serve, "_silent", lambda address: None)
        patch.setattr(serve, "serve", lambda servers, tell: started.extend(servers))
        told = as_it_stands(run, command)
    return told + " ".join(server.address for server in started)


def without_images(run: Callable[..., str], command: str) -> str:
    """The study's file and what is set over it are read; the images of CIFAR-10 are not here, and it would take an hour."""
    assert "/data/cifar10" in run(*shlex.split(command)[1:], ended=1)
    return ""


def with_two_methods(run: Callable[..., str], command: str) -> str:
    """The names of the others are looked up; tests/trial/test_methods.py runs them."""
    (names,) = re.findall(r"--methods (\S+)", command)
    assert set(names.split(",")) <= set(METHODS)
    command = command.replace(names, "kd,takd").replace("--seeds 3 --tune 4", "--seeds 1 --tune 0 --set training.epochs=1")
    return as_it_stands(run, command)


RUN: dict[str, tuple[Callable[[Callable[..., str], str], str], str]] = {
    "kd-hpo run studies/digits.yaml": (as_it_stands, "Learned lambda (hetero"),
    "kd-hpo ui": (opened, "http://127.0.0.1:5000"),
    "kd-hpo ui --tracking-uri http://MLFLOW:5000": (opened, "http://127.0.0.1:5001"),
    "kd-hpo export digits --top 3": (as_it_stands, "digits-lambda.json"),
    "kd-hpo apply digits-lambda.json": (as_it_stands, "safetensors"),
    "kd-hpo resume digits": (as_it_stands, "Learned lambda (hetero"),
    "kd-hpo report digits -o report.html": (as_it_stands, "report.html"),
    "kd-hpo logs digits hetero-t000 -f": (as_it_stands, "--- attempt 1 of hetero-t000"),
    "kd-hpo list": (as_it_stands, "digits"),
    "kd-hpo show digits": (as_it_stands, "hetero"),
    "kd-hpo run studies/seed_cifar10.yaml --set data.path=/data/cifar10 --set training.epochs=50": (without_images, ""),
    "kd-hpo layers torchvision/resnet18 --input 3x32x32": (as_it_stands, "layer4"),
    "kd-hpo networks mobilenet": (as_it_stands, "torchvision/mobilenet_v2"),
    "kd-hpo teacher studies/digits.yaml": (as_it_stands, "val"),
    "kd-hpo compare studies/digits.yaml --set name=digits-methods --methods ce,kd,fitnets,at,sp,vid,pkt,ifm,takd,semckd,uniform,"
    "hetero --seeds 3 --tune 4": (with_two_methods, "takd"),
}
"""Every other command, in the order in which they are run: how it is cut short, and words of what it tells."""


def commands() -> list[str]:
    """Lines of the README's shell blocks without their comments, and commands with arguments in its text."""
    text = README.read_text()
    lines = re.findall(r"^    ((?:kd-hpo|make|pip|python|source|docker|ray|mlflow)\b.*)", text, flags=re.MULTILINE)
    spans = re.findall(r"`(kd-hpo [a-z]+ [^`]+)`", text)
    return list(dict.fromkeys(re.sub(r"\s+#.*", "", line).strip() for line in [*lines, *spans]))


def test_every_command_is_known() -> None:
    unknown = [command for command in commands() if command not in RUN and command not in ELSEWHERE]
    assert not unknown, (
        f"the README has commands that no test runs: {unknown}; add each to RUN in tests/test_readme.py, with how it is cut "
        "short, or to ELSEWHERE, with what runs it"
    )
    gone = [command for command in [*RUN, *ELSEWHERE] if command not in commands()]
    assert not gone, f"the README has these commands no more: {gone}; take them out of tests/test_readme.py"


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(mkdtemp(prefix="kd", dir="/tmp"))  # short, since Ray keeps Unix sockets below it
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.service
def test_every_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.delenv("KD_HPO_RUNS", raising=False)
    write_short_study(folder)

    def run(*arguments: str, ended: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["kd-hpo", *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        told = capsys.readouterr()
        assert code == ended, told.err
        return told.out + told.err

    for command, (shorter, words) in RUN.items():
        assert words in shorter(run, command), command


def test_commands_exist() -> None:
    named = set(re.findall(r"\bkd-hpo ([a-z]+)", README.read_text()))
    assert named
    assert named <= {name for command in app for name in app[command].name if not name.startswith("-")} | {"run"}
