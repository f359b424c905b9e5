"""Commands that show networks: layers, networks."""

from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from kd_hpo.cli.console import out


def layers(
    network: str,
    /,
    *,
    input_: Annotated[str, Parameter(name="--input")] = "3x32x32",
    classes: int = 10,
    arguments: str = "{}",
    depth: int | None = None,
    all_: Annotated[bool, Parameter(name="--all", negative=())] = False,
) -> None:
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
        The network's own, as a YAML mapping, such as '{depth: 20}'.
    depth
        How many names between dots a layer may have; if not given, as many as keep the table short.
    all_
        Show every layer.
    """
    from kd_hpo.study.show_layers import show_layers

    show_layers(network, input_, classes, arguments, depth, all_, out)


def networks(pattern: str = "", /) -> None:
    """List the networks that a study can name, by where they come from.

    Parameters
    ----------
    pattern
        A part of a name, or a glob such as 'timm/resnet*'.
    """
    from kd_hpo.nets.network_list import networks_like

    for source, names in networks_like(pattern).items():
        told = names if pattern or len(names) <= 100 else [f"kd-hpo networks {source}/ lists them"]
        out.print(Text(f"{source}: {len(names)}", style="bold"))
        out.print(Text("\n".join(f"  {name}" for name in told)))
