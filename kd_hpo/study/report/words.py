"""How numbers and lists are worded, the same wherever a person reads them."""

from collections.abc import Sequence


def number(value: float, form: str) -> str:
    """Writes a number in the form of a format specification, such as ".4f"; a dash for nan, which does not exist."""
    return "-" if value != value else f"{value:{form}}"


def p_value(value: float) -> str:
    """Writes a p-value with three digits, <.001 below that, and a dash for nan."""
    return "<.001" if value < 0.001 else number(value, ".3f")


def with_spread(average: float, deviation: float, digits: int = 4) -> str:
    """Writes a mean with its deviation, as 0.5000 ±.0707; without what is nan."""
    around = "" if deviation != deviation else f" ±{deviation:.{digits}f}".replace("±0.", "±.")
    return number(average, f".{digits}f") + around


def duration(seconds: float) -> str:
    """Writes seconds in units that fit them: 45 s, 4 min 5 s, 2 h 7 min; a dash for nan."""
    if seconds != seconds:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def listed(names: Sequence[str]) -> str:
    """Lists names in a sentence: a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def capital(text: str) -> str:
    """Gives the text with a capital as its first letter."""
    return text[:1].upper() + text[1:]


def shorten(text: str, letters: int) -> str:
    """Shortens text to so many letters by leaving out its middle: both ends of a layer's path tell it from others."""
    if len(text) <= letters:
        return text
    head = (letters - 1) // 3
    return f"{text[:head]}…{text[len(text) - (letters - 1 - head) :]}"
