"""What an image meets on its way through a network: every call of a module, with shapes, parameters and FLOPs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kd_hpo.core.maps import layer_shape
from kd_hpo.core.plan import LayerShape, Size
from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import dry_run
from kd_hpo.nets.inputs import DRY_BATCH, Given, image_of
from kd_hpo.nets.layer_syntax import INPUT, LayerName, input_tensor, tensors_in

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Visit:
    """One call of a module; shapes are of one image, FLOPs too, where a multiplication and an addition are two."""

    layer: LayerName
    """What the module returns: its tensor, or the first of them."""
    module: nn.Module
    tensors: dict[str, Shape]
    """All that has a name, by what is written after the module's: what it returns, and its `:input`."""
    shape: LayerShape | None
    """How the layer is read as a map; None where it cannot be."""
    parameters: int
    """Of the module and all below it."""
    flops_before: int
    flops: int
    """Of the network from its start to the end of this call."""
    identity: tuple[int, int]
    """Of the layer: equal where two visits return the same tensor with the same values."""
    children: "tuple[Visit, ...]" = field(repr=False)
    """The calls that it made, in order."""

    @property
    def outputs(self) -> dict[str, Shape]:
        return {name: shape for name, shape in self.tensors.items() if name != INPUT}


def trace(network: nn.Module, given: Given) -> list[Visit]:
    """Every call of a module in one dry run, in the order in which they end; the last is the network's own, of path ''.

    Raises FeatureMismatch if the network cannot read such images.
    """
    tracer = _Tracer(given)
    with _hooked(network, tracer), _plain_attention(), tracer.counter:
        dry_run(network, given)
    return _numbered(tracer.visits)


class _Tracer:
    def __init__(self, given: Given) -> None:
        self.image = image_of(given)
        self.counter = FlopCounterMode(display=False)
        self.visits: list[Visit] = []
        self._open: list[tuple[int, list[Visit]]] = [(0, [])]  # FLOPs before and children of the calls that have begun
        self._calls = Counter[str]()
        self._parameters: dict[nn.Module, int] = {}
        self._shapes: dict[Shape, LayerShape | None] = {}
        self._maps = set[Size]()
        self._alive: list[object] = []  # so that no two tensors have the same id

    def begin(self) -> None:
        self._open.append((self.flops, []))

    def end(self, path: str, module: nn.Module, given: dict[str, Tensor], output: object) -> None:
        before, children = self._open.pop()
        self._alive.append(output)
        self._calls[path] += 1
        returned = tensors_in(output)
        item, tensor = next(iter(returned.items()), ("", None))
        visit = Visit(
            LayerName(path, self._calls[path], item),
            module,
            {name: tuple(t.shape[1:]) for name, t in (returned | given).items()},
            None if tensor is None else self._read(tensor),
            self._parameters_of(module),
            before,
            self.flops,
            (id(output), 0) if tensor is None else (id(tensor), tensor._version),
            tuple(children),
        )
        self.visits.append(visit)
        self._open[-1][1].append(visit)

    @property
    def flops(self) -> int:
        return self.counter.get_total_flops() // DRY_BATCH

    def _parameters_of(self, module: nn.Module) -> int:
        if module not in self._parameters:
            self._parameters[module] = sum(p.numel() for p in module.parameters())
        return self._parameters[module]

    def _read(self, tensor: Tensor) -> LayerShape | None:
        shape = tuple(tensor.shape)
        if shape not in self._shapes or len(shape) == 3:  # tokens are read by the maps before them
            try:
                batch = bool(shape) and shape[0] == DRY_BATCH
                self._shapes[shape] = layer_shape("", tensor, self.image, self._maps) if batch else None
            except FeatureMismatch:
                self._shapes[shape] = None
            if len(shape) == 4 and (read := self._shapes[shape]):
                self._maps.add((read.height, read.width))
        return self._shapes[shape]


@contextmanager
def _hooked(network: nn.Module, tracer: _Tracer) -> Iterator[None]:
    hooks = []
    for path, module in network.named_modules():

        def after(module: nn.Module, arguments: Any, keywords: Any, output: Any, path: str = path) -> None:
            tracer.end(path, module, input_tensor(arguments, keywords), output)

        # By the class, since TorchScript's own hides these methods; within it no hook is called.
        hooks.append(nn.Module.register_forward_pre_hook(module, lambda *_: tracer.begin()))
        hooks.append(nn.Module.register_forward_hook(module, after, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention by its formula: the counter does not know the CPU's fused kernels."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _numbered(visits: list[Visit]) -> list[Visit]:
    """Takes the number off the calls that are their module's only one."""
    calls = Counter(visit.layer.path for visit in visits)
    numbered: dict[int, Visit] = {}  # children end before their parents
    for visit in visits:
        layer = visit.layer if calls[visit.layer.path] > 1 else replace(visit.layer, call=None)
        numbered[id(visit)] = replace(visit, layer=layer, children=tuple(numbered[id(child)] for child in visit.children))
    return list(numbered.values())
