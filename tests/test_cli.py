"""The command: each mistake is one `error:` line and an exit code, never a traceback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from kd_hpo.cli import main, studies
from kd_hpo.config.study import Compare, StudyConfig
from kd_hpo.study.design.study_file import load_study
from kd_hpo.study.environment import prepare_environment

prepare_environment()

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

STUDY = Path("studies/digits.yaml").absolute()


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

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


def test_missing_study_file(kd_hpo: Command) -> None:
    assert kd_hpo("run", "none.yaml").error.startswith("none.yaml cannot be read (No such file or directory)")


def test_unknown_key_is_told_with_its_line_and_the_nearest(kd_hpo: Command, study: Path) -> None:
    lines = study.read_text().splitlines()
    at = lines.index("  trials: 8")
    lines[at] = "  trails: 8"
    study.write_text("\n".join(lines))
    error = kd_hpo("run", study).error
    assert error.startswith(f"{study}:{at + 1}: search.trails") and "did you mean search.trials" in error


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.trials", "there is no `=` in it"),
        ("search.trails=3", "did you mean search.trials"),
        ("search.trials=none", "search.trials is 'none'"),
        ("search.trials=[", "not accepted as YAML"),
        ("name=../x", "name is '../x'"),
        ("compare.methods=[learnt]", "learnt"),
    ],
)
def test_bad_override_is_told(kd_hpo: Command, study: Path, override: str, words: str) -> None:
    error = kd_hpo("run", study, "--set", override).error
    assert words in error and f"--set {override}" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "ce,vdi"], "a method to compare is 'vdi'; it should be one of "),
        (["--methods", ","], "there are no methods to compare; give some of "),
        (["--seeds", "0"], "compare.seeds is 0; it should be greater than 0"),
        (["--set", "compare.tune=-1"], "--set compare.tune=-1: compare.tune is -1"),
    ],
)
def test_comparison_that_is_refused(kd_hpo: Command, study: Path, arguments: list[str], words: str) -> None:
    assert words in kd_hpo("compare", study, *arguments).error


def test_comparison_takes_its_methods_seeds_and_tuning(kd_hpo: Command, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[StudyConfig] = []
    monkeypatch.setattr(studies, "run_and_tell", lambda study, output: asked.append(study))
    given = ["--methods", "ce, kd,vid", "--seeds", "5", "--tune", "2", "--set", "training.epochs=7"]
    assert kd_hpo("compare", study, *given).code == 0
    assert kd_hpo("compare", study).code == 0
    assert asked[0].compare == Compare(methods=("ce", "kd", "vid"), seeds=5, tune=2)
    assert (asked[0].search.trials, asked[0].training.epochs) == (0, 7)
    assert asked[1].compare == load_study(study).compare


@pytest.mark.parametrize("command", ["resume", "export", "show", "report"])
def test_unknown_study_names_those_that_exist(kd_hpo: Command, command: str) -> None:
    folder = kd_hpo.folder / "runs" / "digits"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY.read_text())
    assert f"no study 'digit' in {kd_hpo.folder}/runs; there are digits." in kd_hpo(command, "digit").error
    assert "no study 'digits' in /nowhere. Start one" in kd_hpo(command, "digits", "--runs", "/nowhere").error


@pytest.mark.parametrize("command", ["resume", "export", "show", "report"])
@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "x" * 65, ""])
def test_name_that_leaves_the_folder_is_refused(kd_hpo: Command, command: str, name: str) -> None:
    assert kd_hpo(command, name).error.startswith(f"{name!r} is no name of a study")


def test_export_of_a_study_that_has_learned_nothing(kd_hpo: Command) -> None:
    folder = kd_hpo.folder / "runs" / "digits"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY.read_text())
    assert "no completed trial of study 'digits' has learned pair weights" in kd_hpo("export", "digits").error
    assert "--top is 0; give a number" in kd_hpo("export", "digits", "--top", "0").error


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read (No such file"), ("", "is not an export"), ("{}", "is not an export")]
)
def test_bad_export_file(kd_hpo: Command, content: str | None, words: str) -> None:
    if content is not None:
        (kd_hpo.folder / "export.json").write_text(content)
    assert words in kd_hpo("apply", "export.json").error


@pytest.fixture
def exported(kd_hpo: Command, cache: Path) -> Path:
    """An export by hand, over the networks and the cached teacher of the tests."""
    from kd_hpo.study.matrices.export import export_study
    from kd_hpo.study.store.folder import StudyFolder
    from tests.conftest import digits_study
    from tests.study.helpers import record, result_of
    from tests.study.matrices.test_export import add_trial

    study = digits_study(kd_hpo.folder / "runs")
    folder = StudyFolder.of(study)
    add_trial(folder, "trial-000", result_of([record(1, 0.5)]))
    folder.write_settings(study)
    (study.runs / "cache").symlink_to(cache)
    export_study(study, folder, folder.export, top=1)
    return folder.export


def test_export_then_apply(kd_hpo: Command, exported: Path) -> None:
    told = kd_hpo("export", "small")
    assert (told.code, told.err) == (0, "")
    assert told.out == "1 matrices of study small in small-lambda.json\napply the best one: kd-hpo apply small-lambda.json\n"
    told = kd_hpo("apply", "small-lambda.json", "--set", "training.epochs=1")
    assert (told.code, told.err) == (0, "")
    assert "the teacher's weights are not those that the matrix was learned with" in told.out  # the export is made by hand
    assert "after epoch 1: val 0." in told.out and "best by val, epoch 1: val 0." in told.out
    assert (kd_hpo.folder / "runs/applied/small-1/last.safetensors").is_file()


def test_matrix_of_layers_that_do_not_exist_names_those_that_do(kd_hpo: Command, exported: Path) -> None:
    content = json.loads(exported.read_text())
    content["matrices"][0]["student_layers"][1]["name"] = "layer9"
    exported.write_text(json.dumps(content))
    error = kd_hpo("apply", exported).error
    assert "layer9" in error and all(name in error for name in ("conv1", "conv2", "fc"))


def test_apply_of_a_rank_that_is_not_there(kd_hpo: Command, exported: Path) -> None:
    assert kd_hpo("apply", exported, "--rank", "2").error == "the export has no matrix of rank 2; it has 1"
    assert "did you mean training.epochs" in kd_hpo("apply", exported, "--set", "training.epoch=1").error


def test_file_that_cannot_be_written_is_an_error_too(kd_hpo: Command, exported: Path) -> None:
    (kd_hpo.folder / "there").mkdir()
    assert kd_hpo("export", "small", "-o", "there").error.startswith("there: Is a directory")
    below_a_file = kd_hpo("apply", exported, "-o", kd_hpo.folder / "runs/small/study.yaml/x")
    assert "study.yaml/x: Not a directory" in below_a_file.error
    assert not list(kd_hpo.folder.glob(".there*"))


@pytest.mark.parametrize("port", [None, 70000])
def test_ui_on_a_port_that_cannot_be_used(kd_hpo: Command, monkeypatch: pytest.MonkeyPatch, port: int | None) -> None:
    monkeypatch.setattr("kd_hpo.cli.serve.serve", lambda *_: pytest.fail("started a server"))
    (kd_hpo.folder / "runs").mkdir()
    (kd_hpo.folder / "runs" / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = port or taken.getsockname()[1]
        told = kd_hpo("ui", "--port", given)
    assert told.error.startswith(f"port {given} of 127.0.0.1 cannot be used (")
    assert told.error.endswith("; give another one with --port")


def test_ui_without_a_database(kd_hpo: Command) -> None:
    error = kd_hpo("ui", "--runs", "none").error
    assert error == (
        f"there is no {kd_hpo.folder}/none/mlflow.db; run a study first, give its folder with --runs, or an MLflow "
        "server with --tracking-uri"
    )


@pytest.mark.parametrize("words", ["", "the search was stopped with 3 of 8 trials to go"])
def test_interrupted_study_tells_how_to_go_on(kd_hpo: Command, study: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    import kd_hpo.study.run.driver as module

    def interrupted(*arguments: object, verbose: bool, again: bool) -> None:
        raise module.Interrupted(words) if words else KeyboardInterrupt

    monkeypatch.setattr(module, "run_study", interrupted)
    told = kd_hpo("run", study)
    assert told.code == 130
    assert told.err == f"{words or 'stopped'}. What had ended is kept; continue with: kd-hpo resume digits\n"
    told = kd_hpo("run", study, "--set", "runs=other")
    assert told.err.endswith(f"kd-hpo resume digits --runs {kd_hpo.folder}/other\n")


def test_ctrl_c_is_exit_code_130_without_a_traceback(exported: Path) -> None:
    """In a process of its own, since a signal is: `apply`, once it trains."""
    command = [sys.executable, "-c", "from kd_hpo.cli.main import main; main()"]
    arguments = ["apply", str(exported), "--set", "training.epochs=100000", "--runs", str(exported.parent.parent)]
    applying = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    weights = exported.parent.parent / "applied/small-1/last.safetensors"
    while not weights.exists():
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
