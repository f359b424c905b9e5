"""YAML text as plain data, with the line of each path in it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kd_hpo.config.paths import Keys, split_key
from kd_hpo.config.wording import brief, config_error

MAX_BYTES, MAX_VALUES = 2**20, 2**17
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
    "str": (r"[\s\S]*", str),
}
"""What an unquoted value is, as in YAML 1.2: 1e-3 is a number; a date, 12:30, `yes` and `off` are strings."""


def read_text(path: Path) -> str:
    """Reads the text of a UTF-8 file of at most 1 MiB; any other is a ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise config_error(f"{path} cannot be read ({reason}); give the path of a YAML file") from error
    if len(raw) > MAX_BYTES:
        raise config_error(f"{path} has more than {MAX_BYTES} bytes, the most that a file may have; shorten it")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise config_error(f"{path}:{line}: the byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8") from error


def load_yaml(text: str, name: str) -> tuple[Any, dict[Keys, int]]:
    """The plain data of one YAML document and the line of each path in it; a ConfigError begins with name and its line."""
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
    raise config_error(f"{name}{line}: this is not accepted as YAML: {problem}; correct {brief(given)}")


class _Loader(yaml.SafeLoader):
    def resolve(self, kind: type[yaml.Node], value: str, implicit: Any) -> str:
        """The tag of a node that names none; implicit[0] tells that a scalar is unquoted."""
        if kind is yaml.ScalarNode and implicit[0]:
            return TAG + next(tag for tag, (pattern, _) in SCALARS.items() if re.fullmatch(pattern, value))
        return TAG + {yaml.ScalarNode: "str", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}[kind]


@dataclass
class _Build:
    """Makes plain data of a node, and counts it, so that aliases of aliases cannot expand without end."""

    lines: dict[Keys, int] = field(default_factory=dict)
    count: int = 0

    def __call__(self, node: yaml.Node, keys: Keys, line: int) -> Any:
        self.count += 1
        self.lines[keys] = line
        if self.count > MAX_VALUES:
            raise _marked(node, f"it holds more than {MAX_VALUES} values, those of aliases counted wherever they stand")
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
                raise _marked(key_node, f"the key {brief(key)} is already on line {seen[key]}")
            seen[key] = line
            if key_node.tag != f"{TAG}merge":
                own[key] = self(value, keys + split_key(key), line)
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
