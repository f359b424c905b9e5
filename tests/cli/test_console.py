"""What every command shares: names of studies and their completion, and where progress goes."""

import shlex

import pytest

from kd_hpo.cli import console
from kd_hpo.study.store.folder import StudyFolder
from tests.cli.conftest import Command
from tests.conftest import digits_study

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


@pytest.mark.parametrize("command", ["resume", "export", "show", "report"])
@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "x" * 65, ""])
def test_name_that_leaves_the_folder_is_refused(kd_hpo: Command, command: str, name: str) -> None:
    assert kd_hpo(command, name).error.startswith(repr(name))


def test_names_of_studies_are_completed(kd_hpo: Command, searched: StudyFolder) -> None:
    for command in ("show", "report", "resume", "export"):
        assert kd_hpo("__complete", command, "").out.split("begin")[1].split() == ["small"]
    other = kd_hpo.folder / "other"
    searched.root.parent.rename(other)
    assert kd_hpo("__complete", "show", "").out.split("begin")[1].split() == []
    assert kd_hpo("__complete", "show", "--runs", other, "").out.split("begin")[1].split() == ["small"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_where_it_is_asked_for(kd_hpo: Command, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("HOME", str(kd_hpo.folder))
    script = kd_hpo.folder / "completion"
    assert kd_hpo("--install-completion", "--shell", shell, "-o", script).code == 0
    assert all(word in script.read_text() for word in ("report", "verbose", "__complete"))


@pytest.mark.parametrize("name", ["[project]", "x[/b]y", ":smile:", "a b"])
def test_paths_are_printed_as_they_stand_and_commands_are_quoted(kd_hpo: Command, name: str) -> None:
    runs = kd_hpo.folder / name / "runs"
    runs.mkdir(parents=True)
    told = kd_hpo("list", "--runs", runs)
    assert told.code == 0 and f"no studies in {runs}; " in told.out
    digits = digits_study(runs)
    StudyFolder.of(digits).write_settings(digits)
    told = kd_hpo("show", "small", "--runs", runs)
    following = told.out.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(following) == ["kd-hpo", "resume", "small", "--runs", str(runs)]


def test_progress_goes_where_the_output_says() -> None:
    assert console.Output().progress is console.out
    assert console.Output(json=True).progress is console.err
    assert not console.Output(quiet=True).progress.is_terminal
