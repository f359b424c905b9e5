"""Files of weights as training scripts leave them: what is in them, read without running any code, and what fits a network."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from kd_hpo.nets.wrappers import COMPILED

State = dict[str, Tensor]

USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Where training scripts keep the weights that they train, in a file that holds more."""
EXTRA_STATE = "_extra_state"
_DEEPEST, _MOST_MAPPINGS = 10, 10_000


class _LeftOut:
    """Stands for an object that is no weight, such as a script's arguments: what made it is not imported, and nothing runs."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _mapping(*_: object) -> OrderedDict[str, object]:
    """Stands for a mapping of another class."""
    return OrderedDict()


_NOT_READ = (
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta", "datetime.date"),
    *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{kind}" for kind in ("Path", "PosixPath", "WindowsPath")),
    *(f"{numpy}.multiarray.{made}" for numpy in ("numpy.core", "numpy._core") for made in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer"),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Float16", "Int64", "Int32", "UInt8", "Bool", "Str")),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata"),
    *("omegaconf.base.Metadata", "omegaconf.nodes.AnyNode", "typing.Any"),
    *(f"builtins.{kind}" for kind in ("type", "list", "dict", "set", "int", "float", "str", "bool", "object")),
)
"""What training scripts put beside weights, by its full name; all that is not here or torch's own is refused."""
_MAPPINGS = ("collections.defaultdict",)
_ALLOWED = [*((_LeftOut, name) for name in _NOT_READ), *((_mapping, name) for name in _MAPPINGS)]


def read_weights_file(path: Path) -> Any:
    """Reads a safetensors file or a torch file as plain data.

    Raises an error of nearly any type for a file that is neither, or that names anything but tensors, plain values and
    `_NOT_READ`.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals(_ALLOWED):  # type: ignore[arg-type]
        return torch.load(path, weights_only=True, map_location="cpu")


def objects_in(path: Path) -> list[str]:
    """The full names of what a torch file holds that is not read; empty for a file that torch cannot look into."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no torch file at all, or one of the old format
        return []
    return sorted(set(found) - {name for _, name in _ALLOWED})


def metadata_of(path: Path) -> dict[str, str]:
    """Reads what a safetensors file says beside its tensors."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


@dataclass(frozen=True)
class Found:
    """A group of tensors in a file whose names, after what stands before them, are those of a network's weights."""

    key: str
    """What stands before them, with the keys of the mappings that they lie in; empty where nothing does."""
    state: State
    """By the network's names."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else modules keep beside their tensors (`get_extra_state`), likewise."""
    beside: list[str] = field(default_factory=list)
    """The tensors that lie in the same mapping under other names."""

    def is_under(self, key: str) -> bool:
        return self.key == key or self.key.startswith(f"{key}.")

    @property
    def is_usual(self) -> bool:
        """Whether the group lies where the weights usually do, and nowhere else."""
        return not self.key or all(part in _USUAL_PARTS for part in self.key.split("."))


_USUAL_PARTS = {*USUAL_KEYS, "module", "network"}


def groups_of(content: Any, expected: Mapping[str, Tensor]) -> list[Found]:
    """Finds every group in which a name of the network's stands, those with the most of them first."""
    found = []
    for keys, named in islice(_mappings(content), _MOST_MAPPINGS):
        named = {plain_name(name): item for name, item in named.items()}
        tensors = {name: item for name, item in named.items() if isinstance(item, Tensor)}
        counted = Counter[str]()
        for name in tensors:
            counted.update(before for before, after in _cuts(name) if after in expected)
        for before in counted:
            state = {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}
            extra = {
                name.removeprefix(before): item
                for name, item in named.items()
                if name.startswith(before) and name.endswith(EXTRA_STATE) and name not in tensors
            }
            beside = [name for name in tensors if not name.startswith(before)]
            key = ".".join([*keys, *([before.rstrip(".")] if before else [])])
            found.append((counted[before], Found(key, state, extra, beside)))
    return [each for _, each in sorted(found, key=lambda counted: -counted[0])]


def plain_name(name: str) -> str:
    """The name without what torch.compile puts into it, at any place."""
    return name.replace(f"{COMPILED}.", "")


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """(before, after) for every place at which a prefix may end."""
    yield "", name
    at = name.find(".")
    while at >= 0:
        yield name[: at + 1], name[at + 1 :]
        at = name.find(".", at + 1)


def _mappings(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The mappings of a file, some way down: of one that holds itself, too."""
    if not isinstance(content, Mapping) or len(keys) > _DEEPEST:
        return
    named = {name: item for name, item in content.items() if isinstance(name, str)}
    yield keys, named
    for name, item in named.items():
        yield from _mappings(item, (*keys, name))
