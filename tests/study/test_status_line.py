"""Words about what is being made: in a log, each thing once, and again when some time has passed."""

import io

import pytest
from rich.console import Console

from kd_hpo.errors import Note
from kd_hpo.study.status_line import INTERVAL_S, status_line


def test_a_log_has_a_line_for_each_thing_and_one_now_and_then() -> None:
    written, now = io.StringIO(), [100.0]
    with status_line(Console(file=written), clock=lambda: now[0]) as tell:
        for epoch in range(1, 6):
            tell(f"training: epoch {epoch} of 5")
            now[0] += 0.4 * INTERVAL_S
        tell("reading")
    assert written.getvalue().splitlines() == ["training: epoch 1 of 5", "training: epoch 4 of 5", "reading"]


def test_a_terminal_has_one_line_that_changes() -> None:
    written = io.StringIO()
    with status_line(Console(file=written, force_terminal=True)) as tell:
        tell("training: epoch 1 of 5")
    assert "\n\n" not in written.getvalue()


def test_each_time_is_a_line_that_stays_on_a_terminal_too() -> None:
    written = io.StringIO()
    with status_line(Console(file=written, force_terminal=True, color_system=None), each_time=True) as tell:
        for epoch in (1, 2, 3):
            tell(f"training: epoch {epoch} of 3")
    assert written.getvalue().splitlines() == [f"training: epoch {epoch} of 3" for epoch in (1, 2, 3)]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_path_is_told_as_it_stands(terminal: bool) -> None:
    written = io.StringIO()
    path = "/x/[project]/r[/b]y/:smile:/[red]"
    with status_line(Console(file=written, width=200, force_terminal=terminal, color_system=None)) as tell:
        tell(f"reading {path}")
        tell(Note(f"noted {path}"))
    assert f"noted {path}" in written.getvalue() and (terminal or f"reading {path}" in written.getvalue())


def test_a_note_stays_and_is_told_once() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100)
    for _ in range(2):  # as a study looks at its data more than once
        with status_line(console) as tell:
            tell(Note("images of 16 bits are read as those of 12"))
            tell(Note("a name with \x1b[31m in it"))
    assert out.getvalue().splitlines() == ["images of 16 bits are read as those of 12", r"a name with \x1b[31m in it"]
