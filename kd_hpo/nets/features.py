"""Reads the features of named layers of any module by forward hooks that are always removed."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from kd_hpo.core.maps import as_map
from kd_hpo.core.plan import LayerShape
from kd_hpo.errors import FeatureMismatch

LOGITS = "logits"
"""The name of the network's own output, as a layer."""


class FeatureTap(nn.Module):
    """A network that returns its logits and the features of some layers, as they are: gradients reach them from both.

    layers are dotted module names; `logits` is the network's output. Use as a context manager, or call `close`.
    Raises FeatureMismatch for a layer that the network does not have.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.network, self.layers = network, tuple(layers)
        self._seen: dict[str, Tensor] = {}
        modules = dict(network.named_modules())
        self._hooks = [
            require_layer(network, name, modules).register_forward_hook(self._keep(name)) for name in layers if name != LOGITS
        ]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (B, C, H, W) -> logits (B, K), features: one tensor a layer, in the order of `layers`."""
        self._seen.clear()
        logits = self.network(x)
        features = {**self._seen, LOGITS: logits}
        self._seen.clear()
        missing = [name for name in self.layers if name not in features]
        if missing:
            raise FeatureMismatch(f"layers {missing} are never reached by this network's forward pass; name others")
        return logits, [features[name] for name in self.layers]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise FeatureMismatch(
                    f"layer {name!r} returns a {type(output).__name__}; only tensors can be read: name a layer inside"
                )
            self._seen[name] = output

        return hook


def require_layer(network: nn.Module, name: str, modules: dict[str, nn.Module]) -> nn.Module:
    if name in modules and name:
        return modules[name]
    known = list(dict.fromkeys([*(n for n in modules if n and n.count(".") <= name.count(".")), LOGITS]))
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise FeatureMismatch(f"{type(network).__name__} has no layer {name!r}; {hint}it has {', '.join(known)}")


def layer_shapes(tap: FeatureTap, input_shape: tuple[int, int, int]) -> tuple[LayerShape, ...]:
    """The shapes of the tapped features read as maps, found by one dry run in eval mode."""
    device = next(tap.parameters()).device
    with evaluating(tap), torch.no_grad():
        _, features = tap(torch.zeros(2, *input_shape, device=device))
    return tuple(LayerShape(name, *as_map(f).shape[1:]) for name, f in zip(tap.layers, features, strict=True))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; after, every module is in the mode that it was in before."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
