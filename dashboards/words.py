"""Names and numbers as a person reads them on a page."""

import re

import pandas as pd

from kd_hpo.config.wording import one_line
from kd_hpo.study.report.words import shorten


def short_paths(paths: list[str]) -> dict[str, str]:
    """The last two parts of each dotted path, or all of it where two would read the same."""
    tails = {path: ".".join(path.split(".")[-2:]) for path in paths}
    return {path: tail if list(tails.values()).count(tail) == 1 else path for path, tail in tails.items()}


def without_credentials(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", address)


def count(number: int, what: str) -> str:
    """Writes a number of things: 1 trial, 2 trials."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def plural(word: str) -> str:
    """The plural of a word, such as accuracies or errors."""
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def digits_of(value: float, digits: int = 4) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def plain_note(note: str) -> str:
    """A run's description on one line, without its marks."""
    return shorten(one_line(note.replace("**", "").replace("`", "")), 600)
