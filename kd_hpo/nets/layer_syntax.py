"""What a layer is called: `conv1`, `fc:input`, `relu#2`, `encoder[0]`; and globs over such names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass

from torch import Tensor

from kd_hpo.errors import FeatureMismatch

INPUT = ":input"
_NAME = re.compile(r"(?P<path>[^#:\[\]]+)(#(?P<call>[1-9][0-9]*))?(?P<tensor>:input|(\[[^\[\]]+\]){0,2})")


@dataclass(frozen=True)
class LayerName:
    """One tensor of a forward pass: of a module, or of one of its calls."""

    path: str
    """The module's dotted name; in a pattern, `*` and `?` stand for text without a dot, `**` for any."""
    call: int | None = None
    """Which call of the module, from 1; None where it is called once."""
    tensor: str = ""
    """`""` is what the module returns, `[0]`, `[key]` or `[0][key]` an item of it, `:input` its first tensor argument."""

    def __str__(self) -> str:
        return f"{self.path}{'' if self.call is None else f'#{self.call}'}{self.tensor}"

    @property
    def is_glob(self) -> bool:
        return "*" in self.path or "?" in self.path

    def matches(self, path: str) -> bool:
        wild = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
        pattern = "".join(wild.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", self.path))
        return re.fullmatch(pattern, path) is not None


def parse_layer(text: str) -> LayerName:
    """Reads the name of a layer. Raises FeatureMismatch for a text that names none."""
    found = _NAME.fullmatch(text)
    if found is None:
        raise FeatureMismatch(
            f"{text!r} does not name a layer; write NAME, NAME:input (what it is given), NAME#2 (its second call), "
            "or NAME[0] or NAME[key] (an item that it returns)"
        )
    return LayerName(found["path"], int(found["call"]) if found["call"] else None, found["tensor"])


def tensors_in(value: object, *, nested: int = 2) -> dict[str, Tensor]:
    """The tensors that a module returns, each by what is written after the module's name; items of items are the last."""
    if isinstance(value, Tensor):
        return {"": value}
    items = _items(value) if nested else ()
    return {f"[{key}]{rest}": tensor for key, item in items for rest, tensor in tensors_in(item, nested=nested - 1).items()}


def _items(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple | list):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((each.name, getattr(value, each.name)) for each in fields(value))


def input_tensor(arguments: Sequence[object], keywords: Mapping[str, object]) -> dict[str, Tensor]:
    """The first tensor argument of a call, under `:input`; empty if there is none."""
    tensors = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
    return {INPUT: tensors[0]} if tensors else {}
