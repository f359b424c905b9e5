"""What `kd-hpo layers` shows: a network's layers, for a terminal and as data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from kd_hpo.config.yaml_source import load_yaml
from kd_hpo.errors import ConfigError, FeatureMismatch
from kd_hpo.nets.layer_table import layer_table, yaml_list
from kd_hpo.nets.proposal import propose_layers
from kd_hpo.nets.trace import Visit, trace
from kd_hpo.nets.zoo import build_network


@dataclass(frozen=True)
class NetworkLayers:
    visits: Sequence[Visit]
    """Of each layer, in the order in which they run; the last one is what `logits` stands for."""
    proposed: tuple[str, ...]
    """What `layers: auto` takes."""

    def shown(self, depth: int | None, width: int) -> tuple[RenderableType, ...]:
        table = layer_table(self.visits, self.proposed, depth, width)
        return table, Text(f"\n* proposed; in a study: layers: auto, or layers: {yaml_list(self.proposed)}")

    def document(self) -> dict[str, Any]:
        """All layers as plain data, however deep."""
        layers = [
            {
                "name": str(visit.layer),
                "type": type(visit.module).__name__,
                "outputs": list(visit.outputs.values()),
                "parameters": visit.parameters,
                "flops": visit.flops,
            }
            for visit in self.visits
        ]
        return {"layers": layers, "proposed": self.proposed}


def network_layers(
    network: str, input_text: str, classes: int, arguments_text: str, take: str, progress: Console
) -> NetworkLayers:
    """Builds a network and finds its layers.

    Raises ConfigError, or FeatureMismatch where nothing can be proposed; `progress` then shows all layers before.
    """
    shape = _image_shape(input_text)
    arguments = _mapping(arguments_text)
    built = build_network(network, arguments, shape, classes, seed=0, output=take or None, tell=progress.print)
    visits = trace(built, shape)
    try:
        return NetworkLayers(visits, propose_layers(built, shape))
    except FeatureMismatch:
        progress.print(layer_table(visits, (), None, progress.width))
        raise


def _image_shape(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){2}", text):
        raise ConfigError(f"--input is {text!r}; give channels x height x width, such as 3x32x32")
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


def _mapping(text: str) -> dict[str, Any]:
    arguments, _ = load_yaml(text, "--arguments, line ")
    if not isinstance(arguments, dict):
        raise ConfigError(f"--arguments is {text!r}; give a YAML mapping, such as '{{depth: 20}}'")
    return arguments
