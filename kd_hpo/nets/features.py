"""Reads the features of named layers of any module by forward hooks that are always removed."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from kd_hpo.core.maps import layer_shape
from kd_hpo.core.plan import LayerShape, Size
from kd_hpo.errors import FeatureMismatch, KdHpoError
from kd_hpo.nets.inputs import DRY_BATCH, Example, Given, call, image_of
from kd_hpo.nets.layer_syntax import INPUT, LayerName, input_tensor, parse_layer, tensors_in
from kd_hpo.nets.outputs import TakeOutput, kind_of, one_tensor, require_output

LOGITS = "logits"
"""The name of the network's own output, as a layer, whatever module has that name."""
_NAMES_TOLD = 30


class FeatureTap(nn.Module):
    """A network that returns its logits and the features of some layers, as they are: gradients reach them from both.

    layers are `logits`, the network's output, or names as in `layer_syntax`. A feature is what the layer gave, also where
    the network would overwrite it: the network goes on with a copy then, and in its first pass. Use as a context manager, or
    call `close`.
    output  which of the tensors that the network returns is its output, where it returns more than one (`TakeOutput`)
    Raises FeatureMismatch for a layer that the network does not have, or that runs as TorchScript.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], output: str | int | None = None) -> None:
        super().__init__()
        self.network, self.layers = network, tuple(layers)
        self._take = None if output is None else TakeOutput(output)
        self._readers = {name: _Reader(parse_layer(name)) for name in layers if name != LOGITS}
        modules = dict(network.named_modules(remove_duplicate=False))
        found = [(reader, require_layer(network, reader.layer.path, modules)) for reader in self._readers.values()]
        self._hooks = [reader.attach(module) for reader, module in found]

    def forward(self, x: Any) -> tuple[Tensor, list[Tensor]]:
        """Runs the network on x (B, C, H, W): its logits (B, K), and one feature a layer, in the order of `layers`.

        A mapping or tuple of tensors is what the network is called with.
        Raises FeatureMismatch where a name does not say which tensor it means, or the network returns anything but logits.
        """
        return self.through(self.network, x)

    def through(self, network: nn.Module, x: Any) -> tuple[Tensor, list[Tensor]]:
        """Does the same by a module that runs the network inside, such as DistributedDataParallel."""
        for reader in self._readers.values():
            reader.start(self.network.training, torch.is_grad_enabled())
        try:
            returned = call(network, x)
            taken = self._take(self.network, x, returned) if self._take else None
            logits = require_output(self.network, returned if taken is None else taken, one_tensor)
            features = {name: reader.feature() for name, reader in self._readers.items()} | {LOGITS: logits}
        finally:
            for reader in self._readers.values():
                reader.stop()
        return logits, [features[name] for name in self.layers]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Reader:
    """Reads one layer between `start` and `stop`, in one forward pass of the network."""

    reading = False
    training = False
    with_gradient = False
    """Whether the pass as a whole is one that gradients go through."""
    calls = 0
    kept: tuple[Tensor, int] | None = None
    """The feature and its version then."""
    copy: tuple[Tensor, int] | None = None
    """What the network goes on with in the feature's place, and its version at first."""

    def __init__(self, layer: LayerName) -> None:
        self.layer = layer
        self.left_alone = set[bool]()
        """By `training`, where the network has gone on with a copy and not overwritten it: none is needed."""

    def attach(self, module: nn.Module) -> RemovableHandle:
        if self.layer.tensor == INPUT:
            return module.register_forward_pre_hook(self._before, with_kwargs=True)
        return module.register_forward_hook(self._after)

    def start(self, training: bool, with_gradient: bool) -> None:
        self.reading, self.training, self.calls, self.kept, self.copy = True, training, 0, None, None
        self.with_gradient = with_gradient

    def stop(self) -> None:
        self.reading, self.kept, self.copy = False, None, None

    def feature(self) -> Tensor:
        if self.kept is None or (self.layer.call is None and self.calls > 1):
            raise FeatureMismatch(_calls(self.layer, self.calls))
        tensor, version = self.kept
        if _version(tensor) != version:
            raise FeatureMismatch(
                f"the network overwrites the tensor of layer {str(self.layer)!r} by an in-place operation elsewhere; "
                "name the layer that made it or one after, or make that operation not in-place"
            )
        if self.copy is not None and _counts_versions(tensor) and _version(self.copy[0]) == self.copy[1]:
            self.left_alone.add(self.training)
        return tensor.dequantize() if tensor.is_quantized else tensor

    def _before(self, module: nn.Module, arguments: Any, keywords: Any) -> Any:
        return self._read((arguments, keywords), input_tensor(arguments, keywords), "takes no tensor as an argument")

    def _after(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        return self._read(output, tensors_in(output), f"returns {kind_of(output)}")

    def _read(self, passed: Any, tensors: Mapping[str, Tensor], words: str) -> Any:
        """Keeps the feature; the network goes on with it, or with `passed` where a copy stands for it, which it may overwrite."""
        self.calls += self.reading
        if not self.reading or self.calls != (self.layer.call or 1):
            return None
        if self.layer.tensor not in tensors:
            raise FeatureMismatch(_items(self.layer, tensors, words))
        if self.with_gradient and not torch.is_grad_enabled():
            raise FeatureMismatch(
                f"layer {str(self.layer)!r} is computed without gradients, so that no pair can train the network through it: it "
                "is under torch.no_grad or in a torch.utils.checkpoint of the old kind. Give that use_reentrant=False, or name "
                "another layer"
            )
        feature = tensors[self.layer.tensor]
        self.kept = feature, _version(feature)
        if self.training in self.left_alone and _counts_versions(feature):
            return None
        copy = feature.clone()
        self.copy = copy, _version(copy)
        return tree_map(lambda each: copy if each is feature else each, passed)


def _counts_versions(tensor: Tensor) -> bool:
    """Whether an in-place operation shows: not on inference tensors, nor while torch.compile looks on."""
    return not (torch.compiler.is_compiling() or tensor.is_inference())


def _version(tensor: Tensor) -> int:
    """Changes with every in-place operation, where that shows."""
    return tensor._version if _counts_versions(tensor) else 0


def _calls(layer: LayerName, calls: int) -> str:
    if not calls:
        return f"layer {str(layer)!r} is never reached by this network's forward pass; name another"
    named = [f"{layer.path}{call}{layer.tensor}" for call in ("", "#1", f"#{calls}")]
    if calls == 1:
        return f"layer {layer.path!r} is called once in a forward pass, so there is no {str(layer)!r}; write {named[0]}"
    return f"layer {layer.path!r} is called {calls} times in a forward pass; write {named[1]} to {named[2]}"


def _items(layer: LayerName, tensors: Mapping[str, Tensor], words: str) -> str:
    name = str(layer).removesuffix(layer.tensor)
    without = f" without a tensor {layer.tensor}" if layer.tensor not in ("", INPUT) else ""
    remedy = f"write {' or '.join(name + item for item in tensors)}" if tensors else "name another layer"
    return f"layer {name!r} {words}{without}; {remedy}"


def require_layer(network: nn.Module, path: str, modules: Mapping[str, nn.Module]) -> nn.Module:
    """The module at a path. Raises FeatureMismatch where there is none, or it runs as TorchScript."""
    if path in modules and path:
        if isinstance(modules[path], torch.jit.ScriptModule):
            raise FeatureMismatch(
                f"layer {path!r} of {type(network).__name__} runs as TorchScript, which shows no layers; give the network as a "
                "Python class, or pair the outputs alone (layers: [logits], or weighting: {kind: none})"
            )
        return modules[path]
    raise no_layer(network, path, [*(name for name in modules if name), LOGITS])


def no_layer(network: nn.Module, path: str, known: Iterable[str]) -> FeatureMismatch:
    """Makes the error for a name or pattern that is no layer; it tells what is known down to the depth of path."""
    told = list(dict.fromkeys(name for name in known if name.count(".") <= path.count(".")))
    near = difflib.get_close_matches(path, told, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    rest = f" and {len(told) - _NAMES_TOLD} more; kd-hpo layers shows them" if len(told) > _NAMES_TOLD else ""
    return FeatureMismatch(f"{type(network).__name__} has no layer {path!r}; {hint}it has {', '.join(told[:_NAMES_TOLD])}{rest}")


def layer_shapes(tap: FeatureTap, given: Given) -> tuple[LayerShape, ...]:
    """The shapes of the tapped features read as maps, found by one dry run.

    Raises FeatureMismatch for features that cannot be read so.
    """
    with _maps_of(tap.network, image_of(given)) as maps:
        _, features = dry_run(tap, given)
    for name, feature in zip(tap.layers, features, strict=True):
        if len(feature) != DRY_BATCH:
            raise FeatureMismatch(
                f"layer {name!r} gives a feature of shape {tuple(feature.shape)} for {DRY_BATCH} {_what(given)}: "
                "its first side is not the batch; name another layer"
            )
    return tuple(layer_shape(name, f, image_of(given), maps) for name, f in zip(tap.layers, features, strict=True))


def _what(given: Given) -> str:
    return "images" if image_of(given) else "examples"


@contextmanager
def _maps_of(network: nn.Module, image: Size | None) -> Iterator[set[Size]]:
    """Fills with the sizes of the maps that modules return inside."""
    maps = set[Size]()

    def after(module: nn.Module, arguments: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and len(output) == DRY_BATCH:
            shape = layer_shape("", output, image)
            maps.add((shape.height, shape.width))

    hooks = [nn.Module.register_forward_hook(module, after) for module in network.modules()]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def dry_run(network: nn.Module, given: Given, *, training: bool = False) -> Any:
    """Gives what the network returns for two images of noise, or two examples, without gradients, in eval mode or for training.

    The network is left as it was.

    Raises FeatureMismatch if it cannot read them.
    """
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    if isinstance(given, Example):
        inputs = tree_map(lambda each: each.to(like.device) if isinstance(each, Tensor) else each, given.inputs)
    else:
        inputs = torch.randn(DRY_BATCH, *given, generator=torch.Generator().manual_seed(0)).to(like)
    buffers = {buffer: (buffer.clone(), _version(buffer)) for buffer in network.buffers()}
    devices = [like.device] if like.device.type == "cuda" else []
    with evaluating(network), torch.no_grad(), torch.random.fork_rng(devices):
        network.train(training)
        try:
            return network(inputs) if isinstance(network, FeatureTap) else call(network, inputs)
        except KdHpoError:
            raise
        except Exception as error:
            what = network.network if isinstance(network, FeatureTap) else network
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            if isinstance(given, Example):
                raise FeatureMismatch(
                    f"{type(what).__name__} cannot read the example batch: {reason}; give what it is called with, a tensor, a "
                    "mapping of its arguments or a tuple of them"
                ) from error
            raise FeatureMismatch(
                f"{type(what).__name__} cannot read images of {'x'.join(map(str, given))}: {reason}; "
                "build it for this size (many take image_size or img_size), or give images of another"
            ) from error
        finally:
            for buffer, (value, version) in buffers.items():
                if _version(buffer) != version:
                    buffer.copy_(value)


def freeze(network: nn.Module, frozen: bool = True) -> nn.Module:
    """Lets no gradient flow into the network's parameters, TorchScript's neither, whose own class hides the method."""
    return nn.Module.requires_grad_(network, not frozen)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts the network in eval mode inside; after, every module is in the mode that it was in before."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
