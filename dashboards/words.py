"""Names and numbers as a person reads them. Every name that users or networks gave comes to a page through here."""

import re
from html import escape

import pandas as pd

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~:$&^=])")


def markdown(text: object) -> str:
    """As it stands, in a place where Streamlit reads Markdown: no link, picture, formula or emoji comes out of it."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def figure_text(text: object, letters: int = 34) -> str:
    """As it stands, in a figure of plotly, which reads some HTML; long ones without their middle."""
    return escape(shorten(one_line(text), letters), quote=False)


def one_line(text: object) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(str(text).split()))


def shorten(text: str, letters: int) -> str:
    """Without its middle: both ends of a layer's path tell it from others."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 3
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"


def short_paths(paths: list[str]) -> dict[str, str]:
    """The last two parts of each dotted path, or all of it where two would read the same."""
    tails = {path: ".".join(path.split(".")[-2:]) for path in paths}
    return {path: tail if list(tails.values()).count(tail) == 1 else path for path, tail in tails.items()}


def without_credentials(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", address)


def duration(seconds: float) -> str:
    """12 s, 3 min 5 s, 2 h 7 min"""
    if pd.isna(seconds):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, what: str) -> str:
    """1 trial, 2 trials"""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def accuracy(value: float, digits: int = 4) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def plain_note(note: str) -> str:
    """A run's description on one line, without its marks."""
    return shorten(one_line(note.replace("**", "").replace("`", "")), 600)
