"""Weights of networks as files that run no code when they are read."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kd_hpo.errors import ConfigError
from kd_hpo.files import Write, write_atomically
from kd_hpo.nets.identity import network_digest as network_digest
from kd_hpo.nets.weights_file import Found, groups_of, metadata_of, objects_in, plain_name, read_weights_file

HARMLESS = (
    "total_ops",
    "total_params",
    "n_averaged",
    "num_batches_tracked",
    "relative_position_index",
    "position_ids",
    "attn_mask",
)
"""Ends of the names of tensors that files have and networks may do without: counts of profilers, averages and batch norm, and
tables that a network makes for itself."""
_TOLD, _MOST_OF_HEAD = 3, 2
_EXTRA = "extra_state"

State = dict[str, Tensor]


def save_weights(state: Mapping[str, Any], path: Path, write: Write = write_atomically) -> None:
    """Writes a state dict as safetensors, atomically; tensors that share memory are written one by one.

    Raises ConfigError for a state of modules (`get_extra_state`) that JSON does not keep as it is.
    """
    extra = extra_state(state)
    metadata = {_EXTRA: extra} if extra else None
    write(path, save({name: t.detach().cpu().contiguous().clone() for name, t in _tensors(state).items()}, metadata))


def load_weights(network: nn.Module, path: Path, key: str | None = None) -> tuple[str, ...]:
    """Reads a safetensors file, or a torch file, into the network: all of its weights, or none on an error.

    The weights may lie under any keys and prefixes, beside anything that `read_weights_file` reads: those are taken whose names
    and shapes are the network's. Counts of batch norm's batches may be missing, and `HARMLESS` tensors more.
    key      where they lie, `state_dict_ema` or `state_dict.student`: for files in which several would fit
    returns  what to know of what was left out, a line each
    Raises ConfigError if the file is missing or broken, or no weights in it fit, or several do and none of them is usual.
    """
    if not path.is_file():
        raise ConfigError(f"no weights at {path}; give a safetensors file, or a torch file of tensors")
    try:
        content, metadata = read_weights_file(path), metadata_of(path)
    except Exception as error:
        objects = objects_in(path)
        said = f"it holds objects of {_few(objects)}, which are not read" if objects else _one_line(error)
        raise ConfigError(
            f"{path} cannot be read as weights ({said}); give a safetensors file, or a torch file of tensors: "
            "torch.save(network.state_dict(), FILE)"
        ) from error
    own = {plain_name(name): name for name in network.state_dict()}
    expected = {plain_name(name): tensor for name, tensor in _tensors(network.state_dict()).items()}
    found, notes = _chosen(groups_of(content, expected), expected, key, path, type(network).__name__)
    try:  # in the network's own types first, so that what cannot be brought to them leaves the network as it is
        fitted = {n: expected[n].detach().clone().copy_(found.state[n]) for n in expected if n in found.state}
        broken = [name for name, _ in network.named_parameters() if not fitted[plain_name(name)].isfinite().all()]
    except Exception as error:  # a tensor may be sparse, quantised or without values
        raise ConfigError(f"{path} holds tensors that a network cannot take ({_one_line(error)}); save plain ones") from error
    if broken:
        raise ConfigError(f"{path} holds weights that are not finite: {_few(broken)}; their training has diverged, give others")
    extra = found.extra | json.loads(metadata.get(_EXTRA, "{}"))
    fitted |= {name: value for name, value in extra.items() if name in own}
    network.load_state_dict({own[name]: value for name, value in fitted.items()}, strict=False)  # what may differ was checked
    return notes


def _chosen(groups: Sequence[Found], expected: State, key: str | None, path: Path, network: str) -> tuple[Found, tuple[str, ...]]:
    """The weights that fit, and what to say of them."""
    wanted = [group for group in groups if key is None or group.is_under(key)]
    fitting = _distinct([group for group in wanted if not _misfits(expected, group.state)])
    # Of a file's tensors, those of one small part are not taken unasked: they are of another network that holds such a part.
    plain = [group for group in fitting if key is not None or len(group.beside) <= len(group.state)]
    usual = [group for group in plain if group.is_usual]
    chosen = plain if len(plain) == 1 else usual
    if len(chosen) == 1:
        return chosen[0], _notes(chosen[0], fitting, expected, path)
    if fitting:
        under = f" under {key!r}" if key else ""
        raise ConfigError(
            f"{path} holds{under} weights that fit this {network} in more than one place, or beside others: "
            f"{', '.join(group.key or 'the top level' for group in fitting)}; say which to take, such as "
            f"weights_key: {fitting[0].key or fitting[-1].key}"
        )
    if key is not None and not wanted:
        there = [group.key for group in groups if group.key and not _misfits(expected, group.state)]
        hint = f"what fits is under {', '.join(there)}" if there else "omit weights_key to see what it holds"
        raise ConfigError(f"{path} has no weights of this {network} under weights_key {key!r}; {hint}")
    state = max(wanted, key=lambda group: len(group.state.keys() & expected.keys())).state if wanted else {}
    raise ConfigError(f"{path} does not hold weights of this {network}: {_why_not(expected, state)}")


def _distinct(groups: Sequence[Found]) -> list[Found]:
    """Those with values of their own, the usual ones first."""
    kept: list[Found] = []
    for group in sorted(groups, key=lambda each: not each.is_usual):
        if not any(_same(group.state, other.state) for other in kept):
            kept.append(group)
    return kept


def _same(one: State, other: State) -> bool:
    try:
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    except RuntimeError:  # without values, or of two types
        return False


def _notes(chosen: Found, fitting: Sequence[Found], expected: State, path: Path) -> tuple[str, ...]:
    others = [group.key or "the top level" for group in fitting if group is not chosen]
    left = [name for name in chosen.state if name not in expected] + chosen.beside
    where = chosen.key or "the top level"
    notes = [f"{path}: the weights under {where} are taken; {_few(others)} would fit too (weights_key)"] if others else []
    return (*notes, *([f"{path}: left out, as this network has none of it: {_few(left)}"] if left else []))


def _why_not(expected: State, state: State) -> str:
    """What is wrong, and what to do."""
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    differ = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    outputs = {(tuple(state[name].shape[:1]), tuple(expected[name].shape[:1])) for name in differ}
    others = {tuple(state[name].shape[1:]) == tuple(expected[name].shape[1:]) for name in differ}
    faults = "; ".join(_misfits(expected, state))
    if len(outputs) == 1 and others == {True} and not missing and differ == list(expected)[-len(differ) :]:
        ((given,), (here,)) = next(iter(outputs))
        return (
            f"{faults}. Its head is one of {given} outputs, and here are {here}: give weights of a network that was trained for "
            f"these {here}, or name a `package.module:callable` of yours that reads the rest and puts a head of {here} on it"
        )
    few = missing == list(expected)[-len(missing) :] and len(missing) <= _MOST_OF_HEAD and len(missing) < len(expected)
    if few and not differ and not [name for name in state if name not in expected and not name.endswith(HARMLESS)]:
        return (
            f"{faults}. It has no head, as self-supervised training leaves a network: train one for these classes on it first, "
            "or name a `package.module:callable` of yours that reads the rest and puts a trained head on it"
        )
    return f"{faults}. Build the network as it was when they were saved: name, arguments, image size, classes"


def weights_digest(network: nn.Module) -> str:
    """The sha256 of a network's weights and buffers, by name: what an export names a teacher by."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(network.state_dict()).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors(state: object) -> State:
    items = state.items() if isinstance(state, Mapping) else ()
    return {name: t for name, t in items if isinstance(name, str) and isinstance(t, Tensor)}


def _misfits(expected: State, state: State) -> list[str]:
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in expected and not name.endswith(HARMLESS)]
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


def extra_state(state: Mapping[str, Any]) -> str:
    """Gives what modules keep beside tensors, as JSON; empty where they keep nothing.

    Raises ConfigError for what JSON cannot keep.
    """
    extra = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    if not extra:
        return ""
    try:
        text = json.dumps(extra)
        same = json.loads(text) == extra
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ConfigError(
            f"what get_extra_state returns cannot be kept with the weights ({_few(extra)}); return a tensor, or mappings, lists, "
            "strings and numbers"
        )
    return text


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _TOLD
    return ", ".join(names[:_TOLD]) + (f" and {more} more" if more > 0 else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:150] or type(error).__name__
