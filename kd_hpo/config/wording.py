"""How values and mistakes are worded: short, and on one printable line."""

import difflib
import reprlib
from collections.abc import Iterable

from kd_hpo.errors import ConfigError, without_secrets


class _Short(reprlib.Repr):
    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(without_secrets(x), level)  # before a part of them is cut off, and nothing tells them any more


_short = _Short()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 80, 80


def brief(value: object) -> str:
    return cut(_short.repr(value))


def cut(text: str) -> str:
    text = without_secrets(text)
    return text if len(text) <= 100 else f"{text[:97]}..."


def one_line(text: str) -> str:
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in " ".join(text.split()))


def config_error(text: str) -> ConfigError:
    return ConfigError(one_line(text))


def nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def not_one_of(name: str, accepted: Iterable[str]) -> str:
    """Tells what is wrong with a name that is not accepted; the caller says first where it stands."""
    names = list(dict.fromkeys(accepted))
    near = nearest(name, names)
    return f"is {brief(name)}; it should be one of {', '.join(names)}" + (f"; did you mean {near}?" if near else "")
