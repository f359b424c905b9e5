"""Commands that show networks: layers, networks."""

import sys
from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from kd_hpo.cli.console import AS_USUAL, Output, Result, out


def layers(
    network: str,
    /,
    *,
    input_: Annotated[str, Parameter(name="--input")] = "3x32x32",
    classes: int = 10,
    arguments: str = "{}",
    take: str = "",
    depth: int | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
    output: Output = AS_USUAL,
) -> Result:
    """Show the layers of a network, and which ones `layers: auto` takes (*).

    FLOPs are those of one image from the start to the end of the layer.

    Parameters
    ----------
    network
        A name that `kd-hpo networks` lists, or package.module:callable.
    input_
        Channels x height x width of an image.
    classes
        How many logits.
    arguments
        The network's own arguments, as a YAML mapping, such as '{depth: 20}'.
    take
        The logits of a network that returns more than one tensor: a key, a field or a place, as `output` in a study.
    depth
        How many names between dots a layer may have; if not given, as many as keep the table short.
    all_
        Show every layer.
    """
    from kd_hpo.cli.show_layers import network_layers

    found = network_layers(network, input_, classes, arguments, take, output.progress)
    return Result({"network": network} | found.document(), found.shown(sys.maxsize if all_ else depth, out.width))


def networks(pattern: str = "", /, *, output: Output = AS_USUAL) -> Result:
    """List the networks that a study can name, by where they come from.

    Parameters
    ----------
    pattern
        A part of a name, or a glob such as 'timm/resnet*'.
    """
    from kd_hpo.nets.network_list import networks_like

    found, lines = networks_like(pattern), list[Text]()
    for source, names in found.items():
        told = names if pattern or len(names) <= 100 else [f"kd-hpo networks {source}/ lists them"]
        lines += [Text(f"{source}: {len(names)}", style="bold"), *(Text(f"  {name}") for name in told)]
    return Result(found, tuple(lines))
