"""Which layers of a network a list of names and globs, or `auto`, stands for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import nn

from kd_hpo.nets.features import LOGITS, no_layer
from kd_hpo.nets.inputs import Given
from kd_hpo.nets.layer_syntax import INPUT, LayerName, parse_layer
from kd_hpo.nets.proposal import propose_layers
from kd_hpo.nets.trace import Visit, trace
from kd_hpo.nets.wrappers import WRAPPERS, without_wrappers


def resolve_layers(
    network: nn.Module, patterns: Sequence[str] | Literal["auto"], given: Given, output: str | int | None = None
) -> tuple[str, ...]:
    """The layers to tap, each once: names as they are, in their order, and globs as the layers they match, as these run.

    `*` and `?` match text without a dot, `**` any: `layer*`, `features.*.conv`, `blocks.*[0]`. A glob matches what a forward
    pass reaches, unless it is the logits. `auto` is `propose_layers`. Raises FeatureMismatch for a glob that matches nothing.
    """
    if patterns == "auto":
        return propose_layers(network, given, output)
    known = [path for path, _ in network.named_modules(remove_duplicate=False)]
    parsed = [_parsed(text, known) for text in patterns]
    visits = trace(network, given) if any(pattern.is_glob for _, pattern in parsed) else []
    names = (name for text, p in parsed for name in (_matches(network, p, visits) if p.is_glob else [text]))
    return tuple(dict.fromkeys(names))


def _parsed(text: str, known: Sequence[str]) -> tuple[str, LayerName]:
    """With the name that it has here, where it is that in a wrapper which has been taken off."""
    if text == LOGITS:
        return text, LayerName(LOGITS)
    layer = parse_layer(text)
    wrapped = layer.path.startswith(WRAPPERS) and not any(path.startswith(WRAPPERS) for path in known)
    if not wrapped:
        return text, layer
    bare = replace(layer, path=without_wrappers(layer.path))
    return str(bare), bare


def _matches(network: nn.Module, pattern: LayerName, visits: Sequence[Visit]) -> list[str]:
    *inner, output = visits
    found = [
        str(LayerName(visit.layer.path, visit.layer.call, pattern.tensor))
        for visit in inner
        if pattern.matches(visit.layer.path)
        and pattern.call in (None, visit.layer.call or 1)
        and pattern.tensor in visit.tensors
        and (pattern.tensor == INPUT or visit.identity != output.identity)
    ]
    if found:
        return found
    raise no_layer(network, str(pattern), [str(visit.layer) for visit in inner if visit.outputs])
