"""The digest of what a network computes, for names of what was computed with it."""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_hpo.callables import code_digest

_LIBRARIES = ("torch", "torchvision", "timm", "kd_hpo")
"""Their code is told by the names of their classes."""
_OF_TORCH = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training", "_is_full_backward_hook"}
"""Attributes of a module that are told elsewhere, or do not act on what it gives in evaluation."""
_DEEPEST = 6


def network_digest(network: nn.Module) -> str:
    """The sha256, in hex, of all that what a network gives in evaluation depends on.

    That is its weights and buffers, those that are not saved too; what else its modules hold, such as numbers, tensors, hooks
    and functions; the modules as they print; and the code of those of a user's own, with what that imports.
    """
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(network)).encode())
    for part in _parts(network):
        digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()


def _parts(network: nn.Module) -> Iterator[bytes]:
    tell = _Teller()
    for name, value in sorted(network.state_dict().items()):
        yield from (name.encode(), *tell(value))
    for name, buffer in sorted(network.named_buffers()):
        yield from (name.encode(), *tell(buffer))
    for name, module in network.named_modules():
        yield f"{name} {type(module).__module__}.{type(module).__qualname__}".encode()
        for attribute, value in sorted(vars(module).items()):
            if attribute not in _OF_TORCH and not _is_nothing(value):
                yield from (attribute.encode(), *tell(value))
    yield from _sources(type(module).__module__ for module in network.modules())


def _sources(names: Iterator[str]) -> Iterator[bytes]:
    """Of modules of others than the libraries: their own text, and all of the user's own that they import."""
    own = sorted({name for name in names if name.partition(".")[0] not in _LIBRARIES})
    for name in own:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and file.endswith(".py"):
            yield Path(file).read_bytes()
    yield code_digest(own).encode()


def _is_nothing(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple | set) and not value


class _Teller:
    """Tells what acts alike with the same bytes in every process; of what cannot be told, its type alone."""

    def __init__(self) -> None:
        self._told = dict[int, object]()  # objects are told once, and kept, so that no other one takes an id

    def __call__(self, value: Any, depth: int = 0) -> Iterator[bytes]:
        if depth > _DEEPEST:
            return
        match value:
            case Tensor():
                yield from _tensor(value)
            case None | bool() | int() | float() | complex() | str() | bytes() | torch.dtype() | torch.device():
                yield repr(value).encode()
            case type():
                yield _name(value)
            case nn.Module():  # one that is hidden, as in a list
                yield _name(type(value))
                yield from self._all(value.state_dict().values(), depth)
            case Mapping():
                yield b"mapping"
                for key, item in value.items():
                    # the keys of hooks count what came before in the process
                    yield from (() if isinstance(key, int) else self(key, depth + 1))
                    yield from self(item, depth + 1)
            case list() | tuple():
                yield b"list"
                yield from self._all(value, depth)
            case set() | frozenset():
                yield b"set"
                yield from sorted(b" ".join(self(item, depth + 1)) for item in value)
            case CodeType():
                yield value.co_code
                yield from self._all([*value.co_consts, *value.co_names], depth)
            case FunctionType():
                cells = [_content(cell) for cell in value.__closure__ or ()]
                yield f"{value.__module__}.{value.__qualname__}".encode()
                yield from self._all([value.__code__, value.__defaults__, value.__kwdefaults__, cells], depth)
            case MethodType():
                yield from self._all([value.__func__, value.__self__], depth)
            case partial():
                yield from self._all([value.func, value.args, value.keywords], depth)
            case _:
                yield _name(type(value))
                yield from self._object(value, depth)

    def _all(self, values: Iterable[Any], depth: int) -> Iterator[bytes]:
        for value in values:
            yield from self(value, depth + 1)

    def _object(self, value: Any, depth: int) -> Iterator[bytes]:
        if isinstance(value, np.ndarray):
            yield from (f"{value.dtype} {value.shape}".encode(), value.tobytes())
        elif hasattr(value, "__dict__") and id(value) not in self._told:
            self._told[id(value)] = value
            yield from self._all((part for item in sorted(vars(value).items()) for part in item), depth)


def _name(kind: type) -> bytes:
    return f"{kind.__module__}.{kind.__qualname__}".encode()


def _tensor(tensor: Tensor) -> Iterator[bytes]:
    tensor = tensor.detach()
    yield f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    if tensor.is_quantized:
        yield repr(tensor.qscheme()).encode()
        tensor = torch.dequantize(tensor)
    if tensor.layout == torch.strided and not tensor.is_meta:
        yield tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
