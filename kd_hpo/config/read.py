"""Reads a YAML file and `a.b.c=value` overrides into settings; every mistake becomes a ConfigError, one line for each."""

import difflib
import re
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from kd_hpo.config.settings import Settings
from kd_hpo.errors import ConfigError

M = TypeVar("M", bound=Settings)
Keys = tuple[str, ...]  # a dotted path, split; a list index is its digits, and a key with dots in it several names

KIND = "kind"  # the discriminator of every union of settings
MAX_BYTES, MAX_VALUES, MAX_DEPTH, MAX_MISTAKES = 2**20, 10**6, 50, 20
TAG = "tag:yaml.org,2002:"
SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: {"true": True, "false": False}[text.lower()]),
    "int": (r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", int),
    "float": (
        r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
    "merge": (r"<<", str),
    "str": (r".*", str),
}
"""What an unquoted value is, as in YAML 1.2: 1e-3 is a number; a date, 12:30, `yes` and `off` are strings."""


@dataclass(frozen=True)
class Override:
    path: Keys
    value: Any
    text: str
    """As it was given: `a.b.c=value`."""

    def __str__(self) -> str:
        return f"--set {_cut(self.text)}"


def read_settings(model: type[M], path: Path, overrides: Sequence[str] = ()) -> M:
    """The settings of a YAML file (UTF-8, at most 1 MiB) after `a.b.c=value` overrides, in order, values in YAML.

    Raises ConfigError: one line for each mistake, with the file and line, or the override, that it comes from.
    """
    changes = parse_overrides(overrides)
    data, lines = _load(_read_text(path), f"{path}:")
    if not isinstance(data, dict):
        given = "is empty" if data is None else f"holds {_brief(data)}, not a mapping"
        raise _config_error(f"{path} {given}; write `key: value` lines with the keys {', '.join(model.model_fields)}")
    try:
        return model.model_validate(apply_overrides(data, changes))
    except ValidationError as error:
        raise ConfigError(_explain(error, model, lambda keys: _origin(keys, path, lines, changes))) from error


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Splits each `a.b.c=value`; the value is YAML, so `x={kind: adam, lr: 1e-3}` sets a mapping. Raises ConfigError."""
    overrides = []
    for text in texts:
        dotted, equals, value = text.partition("=")
        if not equals:
            raise _config_error(f"--set {_cut(text)}: there is no `=` in it; write --set key.key=value")
        try:
            overrides.append(Override(_split(dotted.strip()), _load(value, "line ")[0], text))
        except ConfigError as error:
            raise _config_error(f"--set {_cut(text)}: {error}") from error
    return overrides


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """A copy of data with the overrides made in order, so the last one wins. Raises ConfigError as set_path does."""
    changed = dict(data)
    for override in overrides:
        try:
            changed = _set(changed, override.path, override.value)
        except ConfigError as error:
            raise _config_error(f"{override}: {error}") from error
    return changed


def set_path(data: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy of data with one path replaced ("weighting.matrix.0.1"); makes the mappings that are missing on the way.

    Raises ConfigError if the path leaves a list, or goes through a value that is no mapping or list.
    """
    changed: dict[str, Any] = _set(data, _split(dotted), value)
    return changed


def replace_path(settings: M, dotted: str, value: Any) -> M:
    """A validated copy of settings with one path changed. Raises ConfigError, with the nearest path if there is no such one."""
    model, keys, data = type(settings), _split(dotted), settings.model_dump()
    try:
        return model.model_validate(_set(data, keys, value))
    except ValidationError as error:
        unknown = [_locate(model, item)[0] for item in error.errors() if item["type"] == "extra_forbidden"]
        exists = not any(_is_at_or_below(keys, start) for start in unknown)
        problem = _explain(error, model, lambda _: f"replacing {dotted}")
    except ConfigError as error:
        exists, problem = False, str(error)
    if not exists and (near := difflib.get_close_matches(dotted, _paths(data), n=1)):
        problem = _one_line(f"{dotted} is not a path of {model.__name__}; did you mean {near[0]}?")
    raise ConfigError(problem)


# ---- paths


def _split(dotted: str) -> Keys:
    keys = tuple(dotted.split("."))
    if not all(key and key.isprintable() for key in keys) or len(keys) > MAX_DEPTH:
        raise _config_error(f"{_brief(dotted)} is no path; write 1 to {MAX_DEPTH} names joined by single dots: key.key.key")
    return keys


def _set(data: Any, keys: Keys, value: Any, done: Keys = ()) -> Any:
    if not keys:
        return value
    if data is None or isinstance(data, Mapping):
        known = {_split_key(key): key for key in data or {}}  # the longest known key, as in `space: {training.lr: ...}`
        size = next((size for size in range(len(keys), 0, -1) if keys[:size] in known), 1)
        key = known.get(keys[:size], keys[0])
        return {**(data or {}), key: _set((data or {}).get(key), keys[size:], value, done + keys[:size])}
    here = _dotted((*done, keys[0]))
    if not isinstance(data, list | tuple):
        raise _config_error(f"there is no {here}, as {_dotted(done)} is {_brief(data)}; set {_dotted(done)} itself")
    if keys[0] not in map(str, range(len(data))):
        raise _config_error(f"there is no {here}, as {_dotted(done)} holds {len(data)} items; they count from 0")
    i = int(keys[0])
    return [*data[:i], _set(data[i], keys[1:], value, (*done, keys[0])), *data[i + 1 :]]


def _paths(data: Any, above: Keys = ()) -> Iterator[str]:
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for key, value in items:
        yield _dotted((*above, str(key)))
        yield from _paths(value, (*above, str(key)))


def _split_key(key: object) -> Keys:
    return tuple(str(key).split("."))


def _is_at_or_below(keys: Keys, start: Keys) -> bool:
    return keys[: len(start)] == start


def _dotted(keys: Keys) -> str:
    return ".".join(keys) or "the top level"


# ---- YAML


class _Loader(yaml.SafeLoader):
    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> str:
        """The tag of a node that names none; implicit[0] tells that a scalar is unquoted."""
        if kind is yaml.ScalarNode and implicit[0]:
            return TAG + next((tag for tag, (pattern, _) in SCALARS.items() if re.fullmatch(pattern, value)), "str")
        return TAG + {yaml.ScalarNode: "str", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}[kind]


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _config_error(f"{path} cannot be read ({reason}); give the path of a YAML file") from error
    if len(raw) > MAX_BYTES:
        raise _config_error(f"{path} has more than {MAX_BYTES} bytes, the most that a file may have; shorten it")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _config_error(f"{path}:{line}: the byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8") from error


def _load(text: str, name: str) -> tuple[Any, dict[Keys, int]]:
    """The plain data of one YAML document and the line of each path in it; an error begins with name and its line."""
    build, line = _Build(), 1
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return (build(node, (), node.start_mark.line + 1) if node else None), build.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = mark.line + 1 if mark else 1, ", ".join(filter(None, (error.context, error.problem)))
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, f"the character {chr(error.character)!r} is not accepted"
    except RecursionError:
        line, problem = loader.line + 1, "it is nested too deeply, or an anchor holds itself"
    except (ValueError, OverflowError) as error:  # of chr(), which PyYAML lets through
        line, problem = loader.line + 1, str(error)
    given = "".join(text.split("\n")[line - 1 : line]).strip()
    raise _config_error(f"{name}{line}: this is not accepted as YAML: {problem}; correct {_brief(given)}")


@dataclass
class _Build:
    """Makes plain data of a node, and counts it, so that aliases of aliases cannot expand without end."""

    lines: dict[Keys, int] = field(default_factory=dict)
    count: int = 0

    def __call__(self, node: yaml.Node, keys: Keys, line: int) -> Any:
        self.count += 1
        self.lines[keys] = line
        if self.count > MAX_VALUES:
            raise _marked(node, f"its aliases expand to more than {MAX_VALUES} values")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            return [self(item, (*keys, str(i)), item.start_mark.line + 1) for i, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        seen: dict[Any, int] = {}
        for key_node, value in sorted(node.value, key=lambda pair: pair[0].tag != f"{TAG}merge"):
            key, line = _scalar(key_node), key_node.start_mark.line + 1
            if key in seen:
                raise _marked(key_node, f"the key {_brief(key)} is already on line {seen[key]}")
            seen[key] = line
            if key_node.tag != f"{TAG}merge":
                own[key] = self(value, keys + _split_key(key), line)
                continue
            for base in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(base, yaml.MappingNode):
                    raise _marked(base, "`<<` takes a mapping or a list of mappings")
                merged |= self(base, keys, self.lines[keys])
        return merged | own


def _scalar(node: yaml.Node) -> Any:
    tag = node.tag.removeprefix(TAG)
    if tag not in {*SCALARS, "map", "seq"}:
        raise _marked(node, f"the tag {tag} is not accepted, only values without one are")
    if tag not in SCALARS or not isinstance(node, yaml.ScalarNode):
        raise _marked(node, "a plain value is due here, not a list or mapping")
    try:
        node.value.encode("utf-8")  # an escape can write half a character
        return SCALARS[tag][1](node.value)
    except (ValueError, KeyError) as error:
        raise _marked(node, f"this is not a valid {tag}") from error


def _marked(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


# ---- from pydantic's errors to lines


def _origin(keys: Keys, path: Path, lines: Mapping[Keys, int], changes: Sequence[Override]) -> str:
    """Where the mistake at keys was made: the override that set it, or the file and the line of what holds or should hold it."""
    if above := [change for change in changes if _is_at_or_below(keys, change.path)]:
        return str(above[-1])
    near = [change for change in changes if _is_at_or_below(change.path, keys) or change.path == (*keys[:-1], KIND)]
    while keys not in lines:
        if made := [change for change in changes if _is_at_or_below(change.path, keys)]:
            return str(made[-1])
        keys = keys[:-1]
    return f"{path}:{lines[keys]}" + "".join(f" with {change}" for change in near)


def _explain(error: ValidationError, model: type[BaseModel], origin: Callable[[Keys], str]) -> str:
    """One line for each key that is wrong."""
    found: dict[Keys, list[tuple[Mapping[str, Any], list[Any]]]] = {}
    for item in error.errors(include_url=False):
        keys, types = _locate(model, item)
        found.setdefault(keys, []).append((item, types))
    holders = {keys[:end] for keys in found for end in range(len(keys))}  # of a union, the variant that came furthest counts
    lines = [_one_line(f"{origin(keys)}: {_mistake(keys, found[keys])}") for keys in found if keys not in holders]
    more = [f"and {len(lines) - MAX_MISTAKES} more mistakes"] if len(lines) > MAX_MISTAKES else []
    return "\n".join(lines[:MAX_MISTAKES] + more)


def _mistake(keys: Keys, found: Sequence[tuple[Mapping[str, Any], list[Any]]]) -> str:
    here, (item, types) = _dotted(keys), found[0]
    models = [model for _, each in found for model in _models(each)]
    kinds = _kinds(models)
    match item["type"]:
        case "missing":
            return f"{here} is missing; add it: {_expected(types)}"
        case "union_tag_not_found":
            return f"{here} is missing; add it: one of {', '.join(kinds)}"
        case "union_tag_invalid":
            tag = item["ctx"]["tag"]
            near = difflib.get_close_matches(tag, kinds, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return f"{here} is {_brief(tag)}; it should be one of {', '.join(kinds)}{hint}"
        case "extra_forbidden" | "invalid_key":
            key, names = str(item["loc"][-1]), list(dict.fromkeys(name for model in models for name in model.model_fields))
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {here.removesuffix(key)}{near[0]}?" if near else f"the keys there are {', '.join(names)}"
            of_kind = f" of kind {' or '.join(kinds)}" if kinds else ""
            return f"{here} is not a key{of_kind} (given {_brief(item['input'])}); {hint}"
    wanted = dict.fromkeys(_wanted(each, its_types) for each, its_types in found)
    what = f"the key {here}" if item["loc"][-1:] == ("[key]",) else here
    return f"{what} is {_brief(item['input'])}; {' or '.join(wanted).replace(' or it should be ', ' or ')}"


def _wanted(item: Mapping[str, Any], types: list[Any]) -> str:
    if item["type"] in ("model_type", "model_attributes_type", "dict_type", "tuple_type"):
        return f"it should be {_expected(types)}"
    return re.sub("^(Value error|Assertion failed), ", "", item["msg"]).replace("Input should", "it should", 1)


def _expected(types: list[Any]) -> str:
    models = _models(types)
    if kinds := _kinds(models):
        return f"a mapping whose kind is one of {', '.join(kinds)}"
    if models:
        return f"a mapping with the keys {', '.join(name for model in models for name in model.model_fields)}"
    return " or ".join(dict.fromkeys(_name(each) for kind in types for each in _leaves(kind)))


def _name(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if not isinstance(origin, type):
        return str(kind).replace("typing.", "")  # a Literal or Any
    if issubclass(origin, str | bytes) or not issubclass(origin, Collection):
        return origin.__name__
    return "a mapping" if issubclass(origin, Mapping) else "a list"


def _locate(model: type[BaseModel], item: Mapping[str, Any]) -> tuple[Keys, list[Any]]:
    """The path that an error is about and the types accepted there; for an unknown key, the types of what holds it.

    pydantic's loc also holds the kinds and labels of unions: walking the types along it tells them from keys.
    """
    loc, last = item["loc"], Keys()
    if item["type"] in ("extra_forbidden", "invalid_key"):
        loc, last = loc[:-1], _split_key(loc[-1])
    elif item["type"].startswith("union_tag"):
        last = (item["ctx"]["discriminator"].strip("'"),)
    places: list[tuple[Keys, Any]] = [((), model)]
    for part in loc:
        places = [step for keys, kind in places for step in _step(keys, kind, part)] or places
    keys = places[0][0]
    return keys + last, [kind for at, kind in places if at == keys]


def _step(keys: Keys, kind: Any, part: str | int) -> Iterator[tuple[Keys, Any]]:
    """Where one part of a loc leads: along a key, into a variant, or nowhere."""
    members = _members(kind)
    if len(members) > 1:  # the part is the variant's kind, or a label made of its type
        named = [each for each in members if part in _kinds(_models([each])) or part == getattr(each, "__name__", None)]
        yield from ((keys, each) for each in named or members)
        return
    origin, args, here = get_origin(members[0]) or members[0], get_args(members[0]), keys + _split_key(part)
    if not isinstance(origin, type):
        return
    if issubclass(origin, BaseModel):
        yield here, origin.model_fields[str(part)].annotation if part in origin.model_fields else Any
    elif issubclass(origin, Mapping) and part != "[key]":
        yield here, args[1] if args else Any
    elif issubclass(origin, Collection) and isinstance(part, int):
        each_its_own = origin is tuple and ... not in args
        yield here, args[part] if each_its_own and part < len(args) else args[0] if args else Any


def _members(kind: Any) -> list[Any]:
    """The members of a union, without None; the type itself if it is no union."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(bare) not in (Union, UnionType):
        return [bare]
    members = [each for each in get_args(bare) if each is not NoneType]
    return members if len(members) > 1 else _members(members[0])


def _leaves(kind: Any) -> list[Any]:
    members = _members(kind)
    return members if len(members) == 1 else [leaf for member in members for leaf in _leaves(member)]


def _models(types: Sequence[Any]) -> list[type[BaseModel]]:
    return [each for kind in types for each in _leaves(kind) if isinstance(each, type) and issubclass(each, BaseModel)]


def _kinds(models: Sequence[type[BaseModel]]) -> list[str]:
    return [str(kind) for model in models if KIND in model.model_fields for kind in get_args(model.model_fields[KIND].annotation)]


# ---- text

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 80, 80


def _brief(value: object) -> str:
    return _cut(_short.repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in " ".join(text.split()))


def _config_error(text: str) -> ConfigError:
    return ConfigError(_one_line(text))
