"""A user's own callable by `package.module:callable`."""

import sys
from pathlib import Path

import pytest

from kd_hpo.callables import code_digest, import_callable, own_code
from kd_hpo.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a package of a user's, undone after the test."""
    package = tmp_path / "callables_of_a_user"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "good.py").write_text("import math\nNUMBER = 3\n_hidden = print\ndef seven():\n    return 7\nclass Eight: ...\n")
    (package / "bad.py").write_text("1 / 0\n")
    (package / "needy.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.setattr(sys, "path", [*filter(None, sys.path)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_is_found_from_the_current_folder() -> None:
    assert import_callable("callables_of_a_user.good:seven")() == 7
    assert import_callable("math:hypot")(3, 4) == 5


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("callables_of_a_user.good", "'callables_of_a_user.good' names no callable"),
        (":seven", "names no callable"),
        ("callables_of_a_user.good:", "names no callable"),
        ("callables_of_a_user.good:Eight.x", "names no callable"),
        ("nowhere_at_all.good:seven", "no module 'nowhere_at_all'"),
        ("callables_of_a_user.goood:seven", "no module 'callables_of_a_user.goood'"),
        ("callables_of_a_user.good:six", "'six'.* Eight, seven$"),
        ("callables_of_a_user.good:NUMBER", "'NUMBER'"),
    ],
)
def test_what_cannot_be_found_is_told(reference: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        import_callable(reference)


@pytest.mark.parametrize(("module", "kind"), [("bad", ZeroDivisionError), ("needy", ModuleNotFoundError)])
def test_an_error_inside_the_module_goes_on(module: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        import_callable(f"callables_of_a_user.{module}:seven")
    assert not isinstance(caught.value, ConfigError)


# ---- files that are called as modules of Python's are


def test_the_file_of_a_name_that_python_has_too_is_the_users(folder: Path) -> None:
    (folder / "statistics.py").write_text("from helper_of_a_user import three\ndef mean():\n    return three\n")
    (folder / "helper_of_a_user.py").write_text("three = 3\n")
    import statistics

    assert import_callable("statistics:mean")() == 3
    assert statistics.mean([1, 2]) == 1.5
    assert sys.modules["statistics"] is statistics
    assert list(own_code(["statistics"])) == ["helper_of_a_user", "statistics"]
    with pytest.raises(ConfigError, match=r"there is no module 'statistics\.nets'"):
        import_callable("statistics.nets:mean")


def test_a_package_of_such_a_name_imports_its_own_parts(folder: Path) -> None:
    (folder / "test").mkdir()
    (folder / "test" / "__init__.py").touch()
    (folder / "test" / "nets.py").write_text("from .parts import width\ndef net():\n    return width\n")
    (folder / "test" / "parts.py").write_text("width = 8\n")
    assert import_callable("test.nets:net")() == 8
    assert list(own_code(["test.nets"])) == ["test", "test.nets", "test.parts"]


def test_a_file_that_nothing_names_hides_no_module_of_pythons(folder: Path) -> None:
    (folder / "profile.py").write_text("1 / 0\n")
    (folder / "uses_profile.py").write_text("import profile\nrun = profile.run\n")
    assert callable(import_callable("uses_profile:run"))
    assert list(own_code(["uses_profile"])) == ["uses_profile"]


# ---- what a user's code is made of


def test_own_code_is_all_that_is_imported_and_not_installed(folder: Path) -> None:
    package = folder / "callables_of_a_user"
    (package / "good.py").write_text("import math\nimport numpy\nfrom . import parts\nfrom ghost import nothing\nimport kd_hpo\n")
    (package / "parts.py").write_text("from ..callables_of_a_user.deep.down import x\nimport alone_of_a_user as a\n")
    (package / "deep").mkdir()
    (package / "deep" / "down.py").write_text("def f():\n    import late_of_a_user\n")
    (folder / "alone_of_a_user.py").touch()
    (folder / "late_of_a_user.py").write_text("syntax error here\n")
    (folder / "unrelated.py").touch()
    top = "callables_of_a_user"
    wanted = ["alone_of_a_user", top, f"{top}.deep.down", f"{top}.good", f"{top}.parts", "late_of_a_user"]
    assert list(own_code([f"{top}.good", "json", "no_such_module"])) == wanted


def test_a_digest_of_code_sees_a_change_in_what_is_imported(folder: Path) -> None:
    (folder / "net_of_a_user.py").write_text("from layers_of_a_user import width\n")
    (folder / "layers_of_a_user.py").write_text("width = 8\n")
    before = code_digest(["net_of_a_user"])
    assert code_digest(["net_of_a_user"]) == before
    (folder / "layers_of_a_user.py").write_text("width = 9\n")
    assert code_digest(["net_of_a_user"]) != before
