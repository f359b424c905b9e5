"""Dotted paths into plain data, such as `weighting.matrix.0.1`."""

from collections.abc import Iterator, Mapping
from typing import Any

from kd_hpo.config.wording import brief, config_error

Keys = tuple[str, ...]  # a dotted path, split; a list index is its digits, and a key with dots in it several names
MAX_DEPTH = 50


def set_path(data: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy of data with one path replaced ("weighting.matrix.0.1"); makes the mappings that are missing on the way.

    Raises ConfigError if the path leaves a list, or goes through a value that is no mapping or list.
    """
    changed: dict[str, Any] = set_keys(data, split_path(dotted), value)
    return changed


def set_keys(data: Any, keys: Keys, value: Any, done: Keys = ()) -> Any:
    """A copy of data with one path replaced, as set_path gives it, for a path that is split already.

    `done` leads to data, for the message. Raises ConfigError as set_path does.
    """
    if not keys:
        return value
    if data is None or isinstance(data, Mapping):
        known = {split_key(key): key for key in data or {}}  # the longest known key, as in `space: {training.lr: ...}`
        size = next((size for size in range(len(keys), 0, -1) if keys[:size] in known), 1)
        key = known.get(keys[:size], keys[0])
        return {**(data or {}), key: set_keys((data or {}).get(key), keys[size:], value, done + keys[:size])}
    here, above = join_path((*done, keys[0])), join_path(done)
    if not isinstance(data, list | tuple):
        raise config_error(f"there is no {here}, as {above} is {brief(data)}; set {above} itself")
    if keys[0] not in map(str, range(len(data))):
        raise config_error(f"there is no {here}, as {above} holds {len(data)} items; they count from 0")
    i = int(keys[0])
    return [*data[:i], set_keys(data[i], keys[1:], value, (*done, keys[0])), *data[i + 1 :]]


def value_at(data: Any, dotted: str, default: Any = None) -> Any:
    """Gives what stands in data at a path; `default` where there is nothing."""
    keys = split_path(dotted)
    while keys:
        items = data if isinstance(data, Mapping) else dict(enumerate(data)) if isinstance(data, list | tuple) else {}
        known = {split_key(key): key for key in items}
        size = next((size for size in range(len(keys), 0, -1) if keys[:size] in known), 0)
        if not size:
            return default
        data, keys = items[known[keys[:size]]], keys[size:]
    return data


def all_keys(data: Any, above: Keys = ()) -> Iterator[Keys]:
    """Every path there is in data, parents first."""
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for key, value in items:
        here = above + split_key(key)
        yield here
        yield from all_keys(value, here)


def split_path(dotted: str) -> Keys:
    """Splits a dotted path into its keys. Raises ConfigError for what cannot be a path."""
    keys = tuple(dotted.split("."))
    if not all(key and key.isprintable() for key in keys) or len(keys) > MAX_DEPTH:
        raise config_error(f"{brief(dotted)} is no path; write 1 to {MAX_DEPTH} names joined by single dots: key.key.key")
    return keys


def split_key(key: object) -> Keys:
    """Splits a key of a mapping, of any type, at its dots."""
    return tuple(str(key).split("."))


def join_path(keys: Keys) -> str:
    return ".".join(key or "''" for key in keys) or "the top level"


def is_at_or_below(keys: Keys, start: Keys) -> bool:
    return keys[: len(start)] == start
