"""The API reference is built from docstrings, without a warning, and covers every public name."""

import subprocess
import sys
from pathlib import Path

import pytest

import kd_hpo
from kd_hpo.study.environment import prepare_environment

prepare_environment()  # before anything imports Ray
BUILD = Path(__file__).parents[1] / "studies" / "reference" / "build.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, str(BUILD), str(folder)], check=True)
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(built: Path) -> None:
    page = (built / "kd_hpo.html").read_text()
    for name in kd_hpo.__all__:
        assert f'id="{name}"' in page
    assert ".pdoc .docstring p" in page  # or the columns of docstrings run together


@pytest.mark.slow
def test_every_module_has_a_page(built: Path) -> None:
    package = Path(kd_hpo.__file__).parent
    modules = {path.relative_to(package).with_suffix("") for path in package.rglob("*.py") if path.stem != "__init__"}
    pages = {path.relative_to(built / "kd_hpo").with_suffix("") for path in (built / "kd_hpo").rglob("*.html")}
    assert modules <= pages


def test_public_names_say_what_they_raise_or_hold() -> None:
    for name in kd_hpo.__all__:
        doc = getattr(kd_hpo, name).__doc__ or ""
        assert len(doc.splitlines()) > 2, f"{name} has a docstring of a line"
        assert "Raises" in doc or name in ("Taught", "TrialResult", "hypergradient"), f"{name} does not say what it raises"
