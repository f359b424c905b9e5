"""`kd-hpo layers`: a network's layers on a terminal."""

import re
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from kd_hpo.config.yaml_source import load_yaml
from kd_hpo.errors import ConfigError, FeatureMismatch
from kd_hpo.nets.layer_table import layer_table, yaml_list
from kd_hpo.nets.proposal import propose_layers
from kd_hpo.nets.trace import trace
from kd_hpo.nets.zoo import build_network


def show_layers(
    network: str, input_text: str, classes: int, arguments_text: str, depth: int | None, everything: bool, out: Console
) -> None:
    """Prints the table, then what `layers: auto` takes. Raises ConfigError, or FeatureMismatch, after the table if it can."""
    shape = _image_shape(input_text)
    built = build_network(network, _mapping(arguments_text), shape, classes, seed=0)
    visits, levels = trace(built, shape), sys.maxsize if everything else depth
    try:
        proposed = propose_layers(built, shape)
    except FeatureMismatch:
        out.print(layer_table(visits, (), levels, out.width))
        raise
    out.print(layer_table(visits, proposed, levels, out.width))
    out.print(Text(f"\n* proposed; in a study: layers: auto, or layers: {yaml_list(proposed)}"))


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
