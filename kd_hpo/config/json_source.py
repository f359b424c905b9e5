"""JSON in which each object says each key once: of two, every reader would take another one."""

import json
from typing import Any


class SaidTwice(ValueError):
    """The error of an object that has a key twice."""


def require_keys_once(content: bytes | str) -> None:
    """Checks that no object has a key twice; what is no JSON is for its reader to tell. Raises SaidTwice for one that has."""
    try:
        json.loads(content, object_pairs_hook=_once)
    except SaidTwice:
        raise
    except (ValueError, RecursionError):
        return


def _once(pairs: list[tuple[str, Any]]) -> None:
    keys = set[str]()
    for key, _ in pairs:
        if key in keys:
            raise SaidTwice(f"the key {key!r} stands twice in one object")
        keys.add(key)
