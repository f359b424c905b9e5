"""Reads a YAML file and `a.b.c=value` overrides into settings; every mistake becomes a ConfigError, one line for each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from kd_hpo.config.explain import KIND, Mistake, as_error, explain, unknown_keys
from kd_hpo.config.paths import Keys, all_keys, is_at_or_below, join_path, set_keys, set_path, split_path
from kd_hpo.config.settings import Settings
from kd_hpo.config.wording import brief, config_error, cut, nearest
from kd_hpo.errors import ConfigError

M = TypeVar("M", bound=Settings)


@dataclass(frozen=True)
class Override:
    path: Keys
    value: Any
    text: str
    """As it was given: `a.b.c=value`."""

    def __str__(self) -> str:
        return f"--set {cut(self.text)}"


def read_settings(
    model: type[M], path: Path, overrides: Sequence[str] = (), check: Callable[[M], Iterable[Mistake]] = lambda settings: ()
) -> M:
    """The settings of a YAML file (UTF-8, at most 1 MiB) after `a.b.c=value` overrides, in order, values in YAML.

    check finds what else is wrong with settings that are valid each by itself.
    Raises ConfigError: one line for each mistake, with the file and line, or the override, that it comes from.
    """
    changes = parse_overrides(overrides)
    from kd_hpo.config.yaml_source import load_yaml, read_text  # settings given in Python need no YAML

    data, lines = load_yaml(read_text(path), f"{path}:")
    if not isinstance(data, dict):
        given = "is empty" if data is None else f"holds {brief(data)}, not a mapping"
        raise config_error(f"{path} {given}; write `key: value` lines with the keys {', '.join(model.model_fields)}")
    return _settings(model, data, changes, {keys: f"{path}:{line}" for keys, line in lines.items()}, check)


def validated(model: type[M], data: Mapping[str, Any], overrides: Sequence[str] = (), *, name: str) -> M:
    """The settings of plain data after `a.b.c=value` overrides; name says what data is ("the export's configuration").

    Raises ConfigError: one line for each mistake, with the override that it comes from, or else name.
    """
    return _settings(model, data, parse_overrides(overrides), dict.fromkeys([(), *all_keys(data)], name), lambda settings: ())


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Splits each `a.b.c=value`; the value is YAML, so `x={kind: adam, lr: 1e-3}` sets a mapping. Raises ConfigError."""
    if not texts:
        return []
    from kd_hpo.config.yaml_source import load_yaml

    overrides = []
    for text in texts:
        dotted, equals, value = text.partition("=")
        if not equals:
            raise config_error(f"--set {cut(text)}: there is no `=` in it; write --set key.key=value")
        try:
            overrides.append(Override(split_path(dotted.strip()), load_yaml(value, "line ")[0], text))
        except ConfigError as error:
            raise config_error(f"--set {cut(text)}: {error}") from error
    return overrides


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """A copy of data with the overrides made in order, so the last one wins. Raises ConfigError as set_path does."""
    changed = dict(data)
    for override in overrides:
        try:
            changed = set_keys(changed, override.path, override.value)
        except ConfigError as error:
            raise config_error(f"{override}: {error}") from error
    return changed


def replace_path(settings: M, dotted: str, value: Any) -> M:
    """A validated copy of settings with one path changed. Raises ConfigError, with the nearest path if there is no such one."""
    model, keys, data = type(settings), split_path(dotted), settings.model_dump()
    try:
        return model.model_validate(set_path(data, dotted, value))
    except ValidationError as error:
        exists = not any(is_at_or_below(keys, start) for start in unknown_keys(error, model))
        problem = as_error(explain(error, model), lambda _: f"replacing {dotted}")
    except ConfigError as error:
        exists, problem = False, error
    if not exists and (near := nearest(dotted, map(join_path, all_keys(data)))):
        problem = config_error(f"{dotted} is not a path of {model.__name__}; did you mean {near}?")
    raise problem


def replace_paths(settings: M, changes: Mapping[str, Any]) -> M:
    """A validated copy of settings with one path after the other changed, in their order; validated once, when all are.

    Raises ConfigError as replace_path does.
    """
    try:
        data: dict[str, Any] = settings.model_dump()
        for dotted, value in changes.items():
            data = set_path(data, dotted, value)
        return type(settings).model_validate(data)
    except (ConfigError, ValidationError):  # a path may lead into what another one's value leaves to its defaults
        for dotted, value in changes.items():
            settings = replace_path(settings, dotted, value)
        return settings


def _settings(
    model: type[M],
    data: Mapping[str, Any],
    changes: Sequence[Override],
    places: Mapping[Keys, str],
    check: Callable[[M], Iterable[Mistake]],
) -> M:
    try:
        settings = model.model_validate(apply_overrides(data, changes))
    except ValidationError as error:
        raise as_error(explain(error, model), lambda keys: _origin(keys, places, changes)) from error
    if mistakes := list(check(settings)):
        raise as_error(mistakes, lambda keys: _origin(keys, places, changes))
    return settings


def _origin(keys: Keys, places: Mapping[Keys, str], changes: Sequence[Override]) -> str:
    """Where the mistake at keys was made: the override that set it, or the place of what holds or should hold it."""
    if above := [change for change in changes if is_at_or_below(keys, change.path)]:
        return str(above[-1])
    near = [change for change in changes if is_at_or_below(change.path, keys) or change.path == (*keys[:-1], KIND)]
    while keys not in places:
        if made := [change for change in changes if is_at_or_below(change.path, keys)]:
            return str(made[-1])
        keys = keys[:-1]
    return places[keys] + "".join(f" with {change}" for change in near)
