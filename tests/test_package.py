"""What PyPI would get, built from a copy of the sources: what is in it, what it says of itself, and that twine takes it."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARTS = ("kd_hpo", "dashboards", "studies", "tests")
FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff", "Makefile")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing := [name for name in ("build", "setuptools", "twine") if find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    copy = tmp_path_factory.mktemp("sources")
    for part in PARTS:
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, copy)
    ended = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"], cwd=copy, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    (file,) = dist.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def about(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def test_twine_takes_both(dist: Path) -> None:
    files = [str(file) for file in dist.iterdir()]
    assert len(files) == 2
    ended = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_wheel_holds_all_that_runs_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"kd_hpo"}  # no other name in a user's environment
    own = {
        str(path.relative_to(ROOT))
        for folder in (ROOT / "kd_hpo", ROOT / "kd_hpo" / "dashboards")  # a link, which `rglob` does not follow
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".pyc",)
    }
    assert "kd_hpo/dashboards/app.py" in own
    assert own <= names, f"not in the wheel: {sorted(own - names)}; see package-data in pyproject.toml"
    assert "kd_hpo/py.typed" in names  # its types are for its users, too
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_sources_hold_studies_tests_and_what_cites_them(dist: Path) -> None:
    (file,) = dist.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "kd_hpo/dashboards/icon.svg",
        "studies/digits.yaml",
        "studies/tour.ipynb",
        "tests/test_package.py",
        "CITATION.cff",
        "CHANGELOG.md",
    } <= names


def test_package_says_what_it_is(about: Message) -> None:
    assert (about["Name"], about["Version"]) == ("kd_hpo", PROJECT["version"])
    assert about["License-Expression"] == "Apache-2.0" and about["Requires-Python"] == ">=3.11"
    assert about["Summary"] == PROJECT["description"] and about["Description-Content-Type"] == "text/markdown"
    assert set(PROJECT["optional-dependencies"]) <= set(about.get_all("Provides-Extra", []))
    assert "Typing :: Typed" in about.get_all("Classifier", [])


def test_licence_citation_and_changes_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format asks for
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text() and "Version 2.0" in (ROOT / "LICENSE").read_text()
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
