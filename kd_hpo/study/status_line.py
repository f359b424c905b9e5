"""What is being made, told in words: a line that changes on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from rich.console import Console
from rich.text import Text

from kd_hpo.errors import Note

INTERVAL_S = 15.0
"""Between two lines of a log about the same thing."""
_NOTED: WeakKeyDictionary[Console, set[str]] = WeakKeyDictionary()


def say(console: Console, words: str, style: str = "") -> None:
    """Prints words as they stand, on whatever console: a path may hold what a console takes for markup or an emoji."""
    console.print(Text(words, style=style))


@contextmanager
def status_line(
    console: Console, clock: Callable[[], float] = time.monotonic, *, each_time: bool = False
) -> Iterator[Callable[[str], None]]:
    """Gives a function that is told what is being made, as `training the teacher: epoch 3 of 25`.

    each_time: every word of it is a line that stays; a `Note` always is, once for a console
    """
    noted = _NOTED.setdefault(console, set())

    def is_noted(words: str) -> bool:
        if isinstance(words, Note) and words not in noted:
            noted.add(words)
            say(console, words, "yellow")
        return isinstance(words, Note)

    if console.is_interactive and not each_time:
        with console.status("preparing") as status:
            yield lambda words: None if is_noted(words) else status.update(Text(words))
        return
    thing, told_at = "", 0.0

    def tell(words: str) -> None:
        nonlocal thing, told_at
        if is_noted(words):
            return
        if each_time or words.split(":")[0] != thing or clock() - told_at >= INTERVAL_S:
            thing, told_at = words.split(":")[0], clock()
            say(console, words)

    yield tell
