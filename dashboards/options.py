"""What the servers are told of who may ask them."""

import argparse
from collections.abc import Callable

from kd_hpo.dashboards.gate import Gate, nothing_more


def add_options(parser: argparse.ArgumentParser, *, writes: bool = True) -> None:
    """Adds the options to a parser; writes says whether the pages have anything that they could change."""
    help_of_name = "a further name that the page is reached by, as a proxy gives it; may be given again"
    parser.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help=help_of_name)
    if writes:
        parser.add_argument("--write", action="store_true", help="let the page change what it shows")


def gate_of(host: str, given: argparse.Namespace, reading: Callable[[str], bool] = nothing_more) -> Gate:
    also = tuple(name.lower() for name in given.allowed_host)
    return Gate(host, also, write=getattr(given, "write", False), reading=reading)


def origins(gate: Gate) -> list[str]:
    """The origins of the gate's further names."""
    return [f"{scheme}://{name}" for name in gate.also for scheme in ("http", "https")]
