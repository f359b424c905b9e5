"""list, show and report; --json, --quiet and --verbose of every command; completion in a shell."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from kd_hpo.cli import console
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder
from tests.conftest import digits_study
from tests.study.helpers import LEARNED, add_search
from tests.test_cli import Command

__all__ = ["kd_hpo"]
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
MATRIX = ((0.7, 0.0), (0.0, 0.3), (0.0, 0.0))


@pytest.fixture
def kd_hpo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    return Command(capsys, monkeypatch, tmp_path)


@pytest.fixture
def study(kd_hpo: Command) -> StudyFolder:
    """Two trials of a search of four have ended."""
    study = digits_study(kd_hpo.folder / "runs", search={"trials": 4}, compare={"methods": ["ce", LEARNED], "seeds": 2})
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    add_search(folder, LEARNED, [0.5, 0.75], MATRIX)
    return folder


def test_list(kd_hpo: Command, study: StudyFolder) -> None:
    told = kd_hpo("list")
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines()[-1].split() == ["small", "unfinished", "2/8", "0.7500", "-"]
    (row,) = json.loads(kd_hpo("list", "--json").out)
    assert (row["study"], row["state"], row["val"], row["test"]) == ("small", "unfinished", 0.75, None)


def test_list_of_nothing(kd_hpo: Command) -> None:
    assert kd_hpo("list").error == f"there is no folder {kd_hpo.folder}/runs; give the one that holds the studies with --runs"
    (kd_hpo.folder / "runs").mkdir()
    assert kd_hpo("list").out == f"no studies in {kd_hpo.folder}/runs; start one with: kd-hpo run STUDY.yaml\n"
    assert json.loads(kd_hpo("list", "--json").out) == []


def test_show(kd_hpo: Command, study: StudyFolder) -> None:
    told = kd_hpo("show", "small")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("small: unfinished, 2 of 8 trials\nThe search has 2 of 4 trials to go: 2 of hetero.\n")
    assert ["hetero", "2/4", "0.7500", "0/2", "-"] in [line.split() for line in told.out.splitlines()]
    assert "the best trial of the search so far, hetero-t001" in told.out and "0.700" in told.out
    assert told.out.endswith("next: kd-hpo resume small\n")
    document = json.loads(kd_hpo("show", "small", "--json").out)
    assert document["state"] == "unfinished" and document["comparison"] is None
    assert document["learned"]["weights"] == [list(row) for row in MATRIX]
    assert document["search"]["hetero"] == {"ended": 2, "planned": 4, "best": 0.75}


@pytest.mark.parametrize(("given", "file"), [([], "small-report.html"), (["-o", "to/pull-request.md"], "to/pull-request.md")])
def test_report(kd_hpo: Command, study: StudyFolder, given: list[str], file: str) -> None:
    told = kd_hpo("report", "small", *given)
    assert (told.code, told.out) == (0, f"the report of study small: {file}\n")
    assert "What is still missing" in (kd_hpo.folder / file).read_text()
    assert json.loads(kd_hpo("report", "small", *given, "--json").out)["report"] == str(kd_hpo.folder / file)


def test_report_that_cannot_be_written(kd_hpo: Command, study: StudyFolder) -> None:
    assert "x.pdf ends in '.pdf'" in kd_hpo("report", "small", "-o", "x.pdf").error
    (kd_hpo.folder / "there.md").mkdir()
    assert kd_hpo("report", "small", "-o", "there.md").error.startswith("there.md: Is a directory")


def test_export_as_json_has_all_else_on_standard_error(kd_hpo: Command, study: StudyFolder) -> None:
    told = kd_hpo("export", "small", "--top", "2", "--json")
    document = json.loads(told.out)
    assert document["file"] == str(kd_hpo.folder / "small-lambda.json")
    assert [(matrix["rank"], matrix["trial"]) for matrix in document["matrices"]] == [(1, "hetero-t001"), (2, "hetero-t000")]
    assert told.err == "apply the best one: kd-hpo apply small-lambda.json\n"
    assert kd_hpo("export", "small", "--json", "-q").err == ""
    assert kd_hpo("export", "small", "-q").out == "1 matrices of study small in small-lambda.json\n"


@pytest.mark.parametrize("name", ["my runs", "it's; here", "$HOME `x`"])
def test_printed_commands_are_what_a_shell_reads_as_they_are_meant(kd_hpo: Command, name: str) -> None:
    study = digits_study(kd_hpo.folder / name, search={"trials": 4}, compare={"methods": [LEARNED], "seeds": 1})
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    add_search(folder, LEARNED, [0.5, 0.75], MATRIX)
    told = kd_hpo("show", "small", "--runs", study.runs).out.splitlines()[-1]
    for printed in (told.removeprefix("next: "), folder.resume):
        program, command, *given = shlex.split(printed)
        assert (program, command) == ("kd-hpo", "resume")
        assert kd_hpo("show", *given).out.startswith("small: unfinished")
    told = kd_hpo("export", "small", "--runs", study.runs, "-o", f"{name}.json").out.splitlines()[-1]
    program, command, file, option, runs = shlex.split(told.removeprefix("apply the best one: "))
    assert (program, command, option, runs) == ("kd-hpo", "apply", "--runs", str(study.runs))
    assert load_export(Path(file)).matrices[0].trial == "hetero-t001"


def test_networks_and_layers_as_json(kd_hpo: Command) -> None:
    assert json.loads(kd_hpo("networks", "ain_con", "--json").out) == {"own": ["plain_conv"]}
    document = json.loads(kd_hpo("layers", "plain_conv", "--json").out)
    assert document["proposed"] == ["conv1", "conv2", "conv3", "fc"]
    conv1 = next(layer for layer in document["layers"] if layer["name"] == "conv1")
    assert conv1["outputs"] == [[16, 15, 15]] and conv1["parameters"] > 0 and conv1["flops"] > 0


def test_teacher_as_json_whatever_a_users_code_prints(kd_hpo: Command) -> None:
    (kd_hpo.folder / "printing_network.py").write_text(
        "from torch import nn\n\n\ndef loud(classes):\n"
        "    print('this is loud')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))\n"
    )
    path = kd_hpo.folder / "study.yaml"
    settings = json.loads(digits_study(kd_hpo.folder / "runs").model_dump_json())
    settings["teacher"] |= {"network": {"name": "printing_network:loud"}, "layers": "auto"}
    path.write_text(yaml.safe_dump(settings))
    told = kd_hpo("teacher", path, "--json")
    document = json.loads(told.out)
    assert document["val_images"] == 120 and 0 < document["val"] < 1 and Path(document["weights"]).is_file()
    assert "this is loud" in told.err and "training the teacher: epoch 1 of 4" in told.err
    quiet = kd_hpo("teacher", path, "--quiet")
    assert "training" not in quiet.out and "accuracy on val 0." in quiet.out and "next:" not in quiet.out


def test_error_leaves_standard_output_empty(kd_hpo: Command, study: StudyFolder) -> None:
    told = kd_hpo("show", "smal", "--json")
    assert told.out == "" and told.error.startswith("no study 'smal'")


def test_verbose_tells_where_an_error_was_raised(kd_hpo: Command, study: StudyFolder) -> None:
    told = kd_hpo("show", "smal", "--verbose")
    assert told.code == 1
    assert "read_settings" in told.err and told.err.splitlines()[-1].startswith("error: no study 'smal'")


def test_names_of_studies_are_completed(kd_hpo: Command, study: StudyFolder) -> None:
    for command in ("show", "report", "resume", "export"):
        assert kd_hpo("__complete", command, "").out.split("begin")[1].split() == ["small"]
    other = kd_hpo.folder / "other"
    study.root.parent.rename(other)
    assert kd_hpo("__complete", "show", "").out.split("begin")[1].split() == []
    assert kd_hpo("__complete", "show", "--runs", other, "").out.split("begin")[1].split() == ["small"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_where_it_is_asked_for(kd_hpo: Command, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("HOME", str(kd_hpo.folder))
    script = kd_hpo.folder / "completion"
    assert kd_hpo("--install-completion", "--shell", shell, "-o", script).code == 0
    assert all(word in script.read_text() for word in ("report", "verbose", "__complete"))


def test_progress_goes_where_the_output_says() -> None:
    assert console.Output().progress is console.out
    assert console.Output(json=True).progress is console.err
    assert not console.Output(quiet=True).progress.is_terminal


@pytest.mark.parametrize(
    ("override", "words"),
    [("data={kind: image_folder, path: /nowhere}", "/nowhere"), ("student.layers=[conv9]", "no layer 'conv9'")],
)
def test_study_that_is_refused_leaves_no_folder(kd_hpo: Command, override: str, words: str) -> None:
    path = kd_hpo.folder / "study.yaml"
    path.write_text(yaml.safe_dump(json.loads(digits_study(kd_hpo.folder / "runs").model_dump_json())))
    told = kd_hpo("run", path, "--set", override, "-q")
    assert words in told.error
    assert not (kd_hpo.folder / "runs" / "small").exists()


def test_json_survives_a_terminal_of_any_width(kd_hpo: Command, study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert json.loads(kd_hpo("show", "small", "--json").out)["study"] == "small"
