"""Takes off what people wrap networks in, or convert them to: it runs a network otherwise, or hides its layers."""

from collections.abc import Callable

import torch
from torch import nn

from kd_hpo.errors import Note

COMPILED = "_orig_mod"
"""What torch.compile calls the network that it compiles."""
WRAPPERS = (f"{COMPILED}.", "module.")
"""What is put before the names of a wrapped network's layers and weights."""

Tell = Callable[[str], None]


def unwrapped(network: nn.Module, name: str, tell: Tell) -> nn.Module:
    """The network in torch.compile's wrapper, and in those that share a batch among devices.

    Hooks and derivatives in forward mode do not go through the first, and a trial runs on one device.
    """
    inner: nn.Module | None = None
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner, instead = network.module, "a trial runs on one device"
    elif [child for child, _ in network.named_children()] == [COMPILED]:
        inner, instead = network.get_submodule(COMPILED), "compile: true compiles the student's steps"
    if inner is None:
        return network
    tell(Note(f"network {name!r} comes in a {type(network).__name__}, which is taken off: {instead}"))
    return unwrapped(inner, name, tell)


def without_wrappers(path: str) -> str:
    """The name that a layer of a wrapped network has without the wrapper."""
    while path.startswith(WRAPPERS):
        path = path.partition(".")[2]
    return path


def in_dtype(network: nn.Module, name: str, tell: Tell) -> nn.Module:
    """The network in torch's default dtype, which images and losses have, where its weights are of another."""
    dtype = torch.get_default_dtype()
    others = {p.dtype for p in network.parameters() if p.is_floating_point() and p.dtype != dtype}
    if not others:
        return network
    given = " and ".join(sorted(_short(each) for each in others))
    tell(Note(f"network {name!r} has weights of {given}, which are taken as {_short(dtype)}, as images and losses are"))
    return network.to(dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
