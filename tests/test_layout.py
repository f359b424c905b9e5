"""The tests' folders are those of the code: `kd_hpo/core/maps.py` has `tests/core/test_maps.py`, and no test file stands alone.

`test_maps_of_tokens.py` is the module's too: an aspect of it, where one file would be long.
"""

from pathlib import Path

import pytest

import kd_hpo

CODE, TESTS = Path(kd_hpo.__file__).parent, Path(__file__).parent
ROOMS = ["", "cli", "core", "nets", "trial"]
"""The rooms that are looked at; "" is the package's own folder."""

WITHOUT = {
    "cli/guard": "ends processes for real: tests/dashboards/test_ui.py",
    "cli/servers": "starts servers for real: tests/dashboards/test_ui.py",
    "trial/balancing": "the measure at a step: tests/trial/test_steps.py",
    "trial/inner": "the step as a direction sees it, against central differences: tests/trial/test_steps.py",
    "trial/learning": "lambda's learning against the formulas, step by step: tests/trial/test_steps.py",
    "trial/parts": "what is prepared, as trials read it: tests/trial/test_teacher.py, tests/data",
    "trial/prepare": "the same, with assistants: tests/trial/test_assistants.py",
    "trial/run": "the door of the loop: tests/trial/test_loop.py",
    "trial/start": "a trial at its start: tests/trial/test_steps.py",
}
"""Modules without a test file of their name, and where they are tested."""

OF_NO_MODULE = {
    "test_docs": "the reference that pdoc makes",
    "test_floors": "imports between rooms",
    "test_layout": "this file",
    "test_package": "wheel and sources",
    "test_readme": "commands and code of the README",
    "test_sentences": "the words of every error",
    "test_tour": "the notebook",
}
"""Test files of what is no module."""


def modules(room: str) -> set[str]:
    return {path.stem for path in (CODE / room).glob("*.py")} - {"__init__"}


def files_of_tests(room: str) -> set[str]:
    return {path.stem for path in (TESTS / room).glob("test_*.py")}


def of(file: str, names: set[str]) -> str | None:
    """The module that a test file is of: the longest name that it starts with."""
    found = [name for name in names if f"{file}_".startswith(f"test_{name}_")]
    return max(found, key=len, default=None)


def test_the_longest_name_counts() -> None:
    assert of("test_pair_losses", {"pair", "pair_losses"}) == "pair_losses"
    assert of("test_maps_of_tokens", {"maps", "map"}) == "maps"
    assert of("test_mapsy", {"maps"}) is None


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_has_its_test_file(room: str) -> None:
    names = modules(room)
    tested = {of(file, names) for file in files_of_tests(room)}
    missing = [f"{room}/{name}".strip("/") for name in sorted(names - tested)]
    unexplained = [name for name in missing if name not in WITHOUT]
    assert not unexplained, f"without a test file of their name: {unexplained}; write tests/{room}/test_NAME.py"


@pytest.mark.parametrize("room", ROOMS)
def test_every_test_file_has_its_module(room: str) -> None:
    names = modules(room)
    alone = {file for file in files_of_tests(room) if of(file, names) is None} - (set() if room else OF_NO_MODULE.keys())
    assert not alone, f"tests/{room} has {sorted(alone)}, and kd_hpo/{room} has no such modules: move or rename them"


def test_exceptions_are_still_needed() -> None:
    for name in WITHOUT:
        room, _, module = name.rpartition("/")
        assert module in modules(room), f"{name} is gone"
        assert module not in {of(file, modules(room)) for file in files_of_tests(room)}, f"{name} has a test file now"
    assert OF_NO_MODULE.keys() <= files_of_tests("")
