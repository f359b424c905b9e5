"""kd-hpo export and apply; code of one's own in an export is never run because a file says so."""

import json
import re
import shlex
from pathlib import Path

import pytest

import kd_hpo as kd_hpo_package
from kd_hpo.errors import ExportError
from kd_hpo.study.matrices.forms import refuse_code
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder
from tests.cli.conftest import STUDY, Command
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import LEARNED, add_search
from tests.study.store.test_export_file import EARLIER

MATRIX = ((0.7, 0.0), (0.0, 0.3), (0.0, 0.0))
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def test_export_of_a_study_that_has_learned_nothing(kd_hpo: Command) -> None:
    folder = kd_hpo.folder / "runs" / "digits"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY.read_text())
    assert "learned" in kd_hpo("export", "digits").error
    assert "--top is 0" in kd_hpo("export", "digits", "--top", "0").error


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), ("", "is not an export"), ("{}", "is not an export")])
def test_bad_export_file(kd_hpo: Command, content: str | None, words: str) -> None:
    if content is not None:
        (kd_hpo.folder / "export.json").write_text(content)
    assert words in kd_hpo("apply", "export.json").error


def test_export_then_apply(kd_hpo: Command, exported: Path) -> None:
    told = kd_hpo("export", "small")
    assert (told.code, told.err) == (0, "")
    assert "1 matrices" in told.lines[0] and told.lines[1].endswith("kd-hpo apply small-lambda.json")
    told = kd_hpo("apply", "small-lambda.json", "--set", "training.epochs=1")
    assert (told.code, told.err) == (0, "")
    assert "the teacher's weights are not those" in told.out  # the export is made by hand
    assert re.search(r"^chosen on val: (\w+), val 0\.\d{4} after the last epoch; (\w+) 0\.\d{4}, (\w+) 0\.\d{4}$", told.out, re.M)
    assert "after epoch 1: val 0." in told.out and "best by val, epoch 1: val 0." in told.out
    assert "test 0." not in told.out and "the test split stays closed; --test opens it (so far never" in told.out
    assert (kd_hpo.folder / "runs/applied/small-1/last.safetensors").is_file()


def test_apply_says_as_json_what_python_gets(kd_hpo: Command, exported: Path) -> None:
    arguments = (exported, "--set", "training.epochs=1")
    document = json.loads(kd_hpo("apply", *arguments, "--json", "--test").out)
    assert document["test_opened"] == 1 and document["test_opened_in"] == str(exported)
    in_python = kd_hpo_package.apply(exported, overrides=["training.epochs=1"], test=True, runs=kd_hpo.folder / "runs").document()
    assert in_python.pop("test_opened") == 2 and document.pop("test_opened") == 1
    assert json.loads(json.dumps(in_python)) == document
    told = kd_hpo("apply", *arguments, "--form", document["form"], "--test")
    val, test = document["last"]["val"], document["last"]["test"]
    assert told.lines[-4].endswith(f"epoch 1: val {val:.4f}, test {test:.4f}")
    assert f"as named: {document['form']}, val {val:.4f} after the last epoch" in told.lines
    assert f"the test split was opened 3 times for this export, says {exported}" in told.lines
    assert kd_hpo("apply", exported, "--form", "frozen").code == 2


def test_apply_of_a_file_of_the_first_version(kd_hpo: Command, exported: Path) -> None:
    exported.write_bytes(EARLIER.read_bytes())
    told = kd_hpo("apply", exported, "--set", "training.epochs=1", "--json", "-q")
    assert list(json.loads(told.out)["forms"]) == ["held", "learned"]
    assert "it holds no trajectory" in kd_hpo("apply", exported, "--form", "replayed").error


def test_matrix_of_layers_that_do_not_exist_names_those_that_do(kd_hpo: Command, exported: Path) -> None:
    content = json.loads(exported.read_text())
    content["matrices"][0]["student_layers"][1]["name"] = "layer9"
    exported.write_text(json.dumps(content))
    error = kd_hpo("apply", exported).error
    assert "layer9" in error and all(name in error for name in ("conv1", "conv2", "fc"))


def test_apply_of_a_rank_that_is_not_there(kd_hpo: Command, exported: Path) -> None:
    assert kd_hpo("apply", exported, "--rank", "2").error.startswith("the export has no matrix of rank 2")
    assert "did you mean training.epochs" in kd_hpo("apply", exported, "--set", "training.epoch=1").error


def test_file_that_cannot_be_written_is_an_error_too(kd_hpo: Command, exported: Path) -> None:
    (kd_hpo.folder / "there").mkdir()
    assert kd_hpo("export", "small", "-o", "there").error.startswith("there: Is a directory")
    below_a_file = kd_hpo("apply", exported, "-o", kd_hpo.folder / "runs/small/study.yaml/x")
    assert "study.yaml/x: Not a directory" in below_a_file.error
    assert not list(kd_hpo.folder.glob(".there*"))


def test_export_as_json_has_all_else_on_standard_error(kd_hpo: Command, searched: StudyFolder) -> None:
    told = kd_hpo("export", "small", "--top", "2", "--json")
    document = json.loads(told.out)
    assert document["file"] == str(kd_hpo.folder / "small-lambda.json")
    assert [(matrix["rank"], matrix["trial"]) for matrix in document["matrices"]] == [(1, "hetero-t001"), (2, "hetero-t000")]
    assert told.err.endswith("kd-hpo apply small-lambda.json\n")
    assert kd_hpo("export", "small", "--json", "-q").err == ""
    assert len(kd_hpo("export", "small", "-q").lines) == 1


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("student.network.name", {"student": {"network": {"name": "os:system"}, "layers": "auto"}}),
        ("teacher.network.name", {"teacher": {"network": {"name": "os:system"}, "layers": "auto"}}),
        ("data.callable", {"data": {"kind": "callable", "callable": "os:system"}}),
        ("pairs.loss.callable", {"pairs": {"loss": {"kind": "callable", "callable": "os:system"}}}),
    ],
)
def test_a_file_runs_no_code_that_the_user_has_not_named(path: str, changes: dict[str, object]) -> None:
    data = digits_trial(**changes).model_dump(mode="json")
    with pytest.raises(ExportError, match=rf"{path} = 'os:system'.* --set {path}=os:system"):
        refuse_code(data, [])
    with pytest.raises(ExportError, match="names code"):
        refuse_code(data, ["training.epochs=3", f"{path}x=os:system"])
    refuse_code(data, [f"{path}=os:system"])
    refuse_code(digits_trial().model_dump(mode="json"), [])


def test_assistants_of_a_file_are_looked_at_too() -> None:
    loss = {"kind": "callable", "callable": "os:system"}
    by_name = {"network": {"name": "os:system"}, "training": {"epochs": 1}}
    by_loss = {"network": {"name": "plain_conv"}, "training": {"epochs": 1}, "pairs": {"loss": loss}}
    for assistant, path in ((by_name, r"assistants\.0\.network\.name"), (by_loss, r"assistants\.0\.pairs\.loss\.callable")):
        data = digits_trial(assistants=[assistant]).model_dump(mode="json")
        with pytest.raises(ExportError, match=path):
            refuse_code(data, [])


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
