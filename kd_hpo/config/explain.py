"""Turns pydantic's errors into mistakes that name the path in the file, what was given and what is accepted there."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kd_hpo.config.paths import Keys, join_path, split_key
from kd_hpo.config.settings import StorageUri
from kd_hpo.config.wording import brief, nearest, not_one_of, one_line
from kd_hpo.errors import ConfigError

KIND = "kind"  # the discriminator of every union of settings
MAX_MISTAKES = 20
_PLAIN = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    StorageUri: "s3://BUCKET/KEY",
}


class Mistake(NamedTuple):
    keys: Keys
    problem: str
    """Begins with the path: `seed is 'x'; it should be a valid integer`."""


def as_error(mistakes: Sequence[Mistake], origin: Callable[[Keys], str]) -> ConfigError:
    """Gives an error of one line for each mistake, which begins with where its keys come from."""
    lines = [one_line(f"{origin(keys)}: {problem}") for keys, problem in mistakes[:MAX_MISTAKES]]
    more = [f"and {len(mistakes) - MAX_MISTAKES} more mistakes"] if len(mistakes) > MAX_MISTAKES else []
    return ConfigError("\n".join(lines + more))


def explain(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    """Gives one mistake for each key that is wrong."""
    found: dict[Keys, list[tuple[Mapping[str, Any], list[Any]]]] = {}
    for item in error.errors(include_url=False):
        keys, types = _locate(model, item)
        found.setdefault(keys, []).append((item, types))
    holders = {keys[:end] for keys in found for end in range(len(keys))}  # of a union, the variant that came furthest counts
    return [Mistake(keys, _problem(keys, found[keys])) for keys in found if keys not in holders]


def unknown_keys(error: ValidationError, model: type[BaseModel]) -> list[Keys]:
    return [_locate(model, item)[0] for item in error.errors() if item["type"] == "extra_forbidden"]


def _problem(keys: Keys, found: Sequence[tuple[Mapping[str, Any], list[Any]]]) -> str:
    here, (item, types) = join_path(keys), found[0]
    models = [model for _, each in found for model in _models(each)]
    kinds = _kinds(models)
    match item["type"]:
        case "missing":
            return f"{here} is missing; add it: {_expected(types)}"
        case "union_tag_not_found":
            return f"{here} is missing; add it: one of {', '.join(kinds)}"
        case "union_tag_invalid":
            return f"{here} {not_one_of(item['ctx']['tag'], kinds)}"
        case "extra_forbidden" | "invalid_key":
            key, names = str(item["loc"][-1]), list(dict.fromkeys(name for model in models for name in model.model_fields))
            near = nearest(key, names)
            hint = f"did you mean {here.removesuffix(key)}{near}?" if near else f"the keys there are {', '.join(names)}"
            of_kind = f" of kind {' or '.join(kinds)}" if kinds else ""
            return f"{here} is not a key{of_kind} (given {brief(item['input'])}); {hint}"
    wanted = dict.fromkeys(_wanted(each, its_types) for each, its_types in found)
    what = f"the key {here}" if item["loc"][-1:] == ("[key]",) else here
    return f"{what} is {brief(item['input'])}; {' or '.join(wanted).replace(' or it should be ', ' or ')}"


def _wanted(item: Mapping[str, Any], types: list[Any]) -> str:
    match item["type"]:
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"it should be {_expected(_models(types) or types)}"
        case "tuple_type":
            return "it should be a list"
        case "path_type":
            return "it should be a path"
        case "too_short":
            kind, least = ("mapping", "key") if isinstance(item["input"], Mapping) else ("list", "item")
            return f"it should be a {kind} with {item['ctx']['min_length']} {least} or more"
    return re.sub("^(Value error|Assertion failed), ", "", item["msg"]).replace("Input should", "it should", 1)


def _expected(types: Sequence[Any]) -> str:
    models, leaves = _models(types), [leaf for kind in types for leaf in _leaves(kind)]
    wanted = list(dict.fromkeys(_name(leaf) for leaf in leaves if leaf not in models))
    if kinds := _kinds(models):
        wanted.append(f"a mapping whose kind is one of {', '.join(kinds)}")
    elif models:
        wanted.append(f"a mapping with the keys {', '.join(name for model in models for name in model.model_fields)}")
    return " or ".join(wanted)


def _name(kind: Any) -> str:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if not isinstance(origin, type):
        return "any value"
    if issubclass(origin, str | bytes) or not issubclass(origin, Collection):
        return _PLAIN.get(origin, origin.__name__)
    return "a mapping" if issubclass(origin, Mapping) else "a list"


# ---- walking the types of a model


def _locate(model: type[BaseModel], item: Mapping[str, Any]) -> tuple[Keys, list[Any]]:
    """The path that an error is about and the types accepted there; for an unknown key, the types of what holds it.

    pydantic's loc also holds the kinds and labels of unions: walking the types along it tells them from keys.
    """
    loc, last = item["loc"], Keys()
    if item["type"] in ("extra_forbidden", "invalid_key"):
        loc, last = loc[:-1], split_key(loc[-1])
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
    origin, args, here = get_origin(members[0]) or members[0], get_args(members[0]), keys + split_key(part)
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
