"""A user's own callable by `package.module:callable`."""

from pathlib import Path

import pytest

from kd_hpo.callables import import_callable
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
    monkeypatch.syspath_prepend("")  # restores sys.path after the test
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
