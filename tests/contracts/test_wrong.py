"""A part that breaks its contract fails the tests that say so, and no others, and is told what is wrong."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import kd_hpo
from tests.contracts import wrong

CLASSES = {name: value.fails for name, value in vars(wrong).items() if name.startswith("Test")}
LINE = re.compile(r"^(?:FAILED|ERROR) \S*wrong\.py::(\w+)::(\w+)\S*(?: - (.*))?$")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By class and test, the first line of the failure: as in a project of the author's own, which knows nothing of this one."""
    folder = tmp_path_factory.mktemp("own")
    file = folder / "test_wrong.py"
    file.write_text(Path(wrong.__file__).read_text())
    environment = os.environ | {"COLUMNS": "400", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(kd_hpo.__file__).parents[1])}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rfE", "--tb=no", str(file)]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for line in ran.stdout.splitlines():
        if match := LINE.match(line):
            found[match[1]].setdefault(match[2], match[3] or "")
    assert found, ran.stdout + ran.stderr
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_fails_the_tests_that_it_breaks_and_no_others(told: dict[str, dict[str, str]], name: str) -> None:
    assert told[name].keys() == CLASSES[name]


@pytest.mark.parametrize("name", [name for name, fails in CLASSES.items() if fails])
def test_is_told_what_is_wrong_in_words(told: dict[str, dict[str, str]], name: str) -> None:
    for test, message in told[name].items():
        words = message.partition("AssertionError: ")[2]
        assert len(words.split()) > 3 and not words.startswith(("assert ", "Tensor-likes")), f"{test}: {message}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TestGradientIntoTheTeacher", "detach `blocks`"),
        ("TestNothingAtZero", "all zeros"),
        ("TestWrongSign", "a sign"),
        ("TestForgotten", "loss = MyLoss"),
        ("TestNoLoss", "dict has no meet"),
        ("TestForgetful", "state_dict"),
        ("TestInPlace", "writes into the outer gradient"),
        ("TestPlainStep", "negative"),
    ],
)
def test_says_what_to_look_for(told: dict[str, dict[str, str]], name: str, words: str) -> None:
    assert any(words in message for message in told[name].values()), told[name]


def test_needs_pytest_and_says_so() -> None:
    code = "import sys; sys.modules['pytest'] = None; import kd_hpo.testing"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.splitlines()[-1].startswith("ModuleNotFoundError: kd_hpo.testing runs under pytest")
    assert "pip install pytest" in ran.stderr
