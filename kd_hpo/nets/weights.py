"""Weights of networks as files that run no code when they are read."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from kd_hpo.errors import ConfigError
from kd_hpo.files import Write, write_atomically
from kd_hpo.nets.identity import network_digest as network_digest

STATE_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Where training scripts keep the weights in a file that holds more."""
PREFIXES = ("module.", "model.", "_orig_mod.", "network.")
"""What wrappers (DataParallel, Lightning, torch.compile, FeatureTap) put before the names of a network's weights."""
_TOLD, _DEEPEST = 3, 10

State = dict[str, Tensor]


def save_weights(state: Mapping[str, Tensor], path: Path, write: Write = write_atomically) -> None:
    """Writes a state dict as safetensors, atomically; tensors that share memory are written one by one."""
    write(path, save({name: t.detach().cpu().contiguous().clone() for name, t in state.items()}))


def load_weights(network: nn.Module, path: Path) -> None:
    """Reads a safetensors file, or a torch file of tensors, into the network: all of its weights, or none on an error.

    The weights may lie under one of `STATE_KEYS`, beside anything that torch reads with weights_only, and their names may
    begin with `PREFIXES`. Counts of batch norm's batches may be missing, as in old files.
    Raises ConfigError if the file is missing or broken, or names or shapes do not fit.
    """
    if not path.is_file():
        raise ConfigError(f"no weights at {path}; give a safetensors file, or a torch file of tensors")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ConfigError(
            f"{path} cannot be read as weights ({_one_line(error)}); give a safetensors file, or a torch file of tensors: "
            "torch.save(network.state_dict(), FILE)"
        ) from error
    expected = _tensors(network.state_dict())
    state = _named_as(expected, _tensors(_state_in(content)))
    faults = _misfits(expected, state)
    if faults:
        raise ConfigError(
            f"{path} does not hold weights of this {type(network).__name__}: {'; '.join(faults)}. "
            "Build the network as it was when they were saved: name, arguments, image size, classes"
        )
    try:  # in the network's own types first, so that what cannot be brought to them leaves the network as it is
        fitted = {name: expected[name].detach().clone().copy_(tensor) for name, tensor in state.items()}
    except Exception as error:  # a tensor may be sparse, quantised or without values
        raise ConfigError(f"{path} holds tensors that a network cannot take ({_one_line(error)}); save plain ones") from error
    network.load_state_dict(fitted, strict=False)  # what may differ has been checked


def weights_digest(network: nn.Module) -> str:
    """sha256 of a network's weights and buffers, by name: what an export names a teacher by."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(network.state_dict()).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(state: object) -> State:
    items = state.items() if isinstance(state, Mapping) else ()
    return {name: t for name, t in items if isinstance(name, str) and isinstance(t, Tensor)}


def _state_in(content: Any) -> Any:
    """The innermost mapping under `STATE_KEYS`; of one that holds itself, some way down."""
    for _ in range(_DEEPEST):
        named = content if isinstance(content, Mapping) else {}
        inner = next((named[key] for key in STATE_KEYS if isinstance(named.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _named_as(expected: State, state: State) -> State:
    """The state with 0, 1, ... prefixes off its names: as few as make the most of them names of the network."""
    best, stripped = state, state
    while any(name.startswith(PREFIXES) for name in stripped):
        stripped = {_without_prefix(name): tensor for name, tensor in stripped.items()}
        if len(stripped) == len(state) and len(stripped.keys() & expected) > len(best.keys() & expected):
            best = stripped
    return best


def _without_prefix(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)


def _misfits(expected: State, state: State) -> list[str]:
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in expected]
    differ = [
        f"{name} {tuple(state[name].shape)} -> {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    kinds = [
        f"{name} {state[name].dtype} -> {tensor.dtype}"
        for name, tensor in expected.items()
        if name in state and _kind(state[name]) != _kind(tensor)
    ]
    told = {"missing": missing, "unknown": unknown, "of another shape (given -> expected)": differ, "of another kind": kinds}
    return [f"{what}: {_few(names)}" for what, names in told.items() if names]


def _kind(tensor: Tensor) -> str:
    """Floats of any size are one kind, and so are whole numbers: those of 8 bits stand for others by a scale kept elsewhere."""
    if tensor.dtype == torch.bool or tensor.is_complex() or tensor.is_quantized:
        return str(tensor.dtype)
    return "float" if tensor.is_floating_point() else "int"


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _TOLD
    return ", ".join(names[:_TOLD]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
