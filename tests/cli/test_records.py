"""kd-hpo list, show and report."""

import json

import pytest

from kd_hpo.study.store.folder import StudyFolder
from tests.cli.conftest import MATRIX, STUDY, Command

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.mark.parametrize("command", ["resume", "export", "show", "report"])
def test_unknown_study_names_those_that_exist(kd_hpo: Command, command: str) -> None:
    folder = kd_hpo.folder / "runs" / "digits"
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY.read_text())
    error = kd_hpo(command, "digit").error
    assert all(fact in error for fact in ("'digit'", f"{kd_hpo.folder}/runs", "there are digits", "did you mean digits?"))
    error = kd_hpo(command, "digits", "--runs", "/nowhere").error
    assert "'digits'" in error and "/nowhere" in error


def test_list(kd_hpo: Command, searched: StudyFolder) -> None:
    told = kd_hpo("list")
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines()[-1].split() == ["small", "unfinished", "2/8", "0.7500", "-"]
    (row,) = json.loads(kd_hpo("list", "--json").out)
    assert (row["study"], row["state"], row["val"], row["test"]) == ("small", "unfinished", 0.75, None)


def test_list_of_nothing(kd_hpo: Command) -> None:
    assert f"{kd_hpo.folder}/runs" in kd_hpo("list").error
    (kd_hpo.folder / "runs").mkdir()
    assert kd_hpo("list").out.startswith("no studies in ")
    assert json.loads(kd_hpo("list", "--json").out) == []


def test_show(kd_hpo: Command, searched: StudyFolder) -> None:
    told = kd_hpo("show", "small")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("small: unfinished, 2 of 8 trials\n") and "2 of hetero" in told.out
    assert ["hetero", "2/4", "0.7500", "0/2", "-"] in [line.split() for line in told.out.splitlines()]
    assert "hetero-t001" in told.out and "0.700" in told.out
    assert told.out.endswith("next: kd-hpo resume small\n")
    document = json.loads(kd_hpo("show", "small", "--json").out)
    assert document["state"] == "unfinished" and document["comparison"] is None
    assert document["learned"]["weights"] == [list(row) for row in MATRIX]
    assert document["search"]["hetero"] == {"ended": 2, "planned": 4, "best": 0.75}


@pytest.mark.parametrize(("given", "file"), [([], "small-report.html"), (["-o", "to/pull-request.md"], "to/pull-request.md")])
def test_report(kd_hpo: Command, searched: StudyFolder, given: list[str], file: str) -> None:
    told = kd_hpo("report", "small", *given)
    assert told.code == 0 and told.out.endswith(f" {file}\n")
    assert "What is still missing" in (kd_hpo.folder / file).read_text()
    assert json.loads(kd_hpo("report", "small", *given, "--json").out)["report"] == str(kd_hpo.folder / file)


def test_report_that_cannot_be_written(kd_hpo: Command, searched: StudyFolder) -> None:
    assert "'.pdf'" in kd_hpo("report", "small", "-o", "x.pdf").error
    (kd_hpo.folder / "there.md").mkdir()
    assert kd_hpo("report", "small", "-o", "there.md").error.startswith("there.md: Is a directory")
