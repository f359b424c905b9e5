"""The layers of a network as a person reads them on a terminal."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from rich.table import Table

from kd_hpo.nets.features import LOGITS
from kd_hpo.nets.layer_syntax import INPUT
from kd_hpo.nets.trace import Shape, Visit

_HEADINGS = ("layer", "type", "output", "params", "FLOPs")
_TYPE = 2
_MOST_ROWS = 40
_NARROWEST_TYPE = 8
_UNITS = "kMGT"
_PLAIN = r"(?!(?i:true|false|null)$)[A-Za-z_][\w.:#-]*"
"""A name that YAML reads as text also without quotes."""


def layer_table(visits: Sequence[Visit], proposed: Collection[str], depth: int | None, width: int) -> Table:
    """A table of the layers, a row each, in the order in which they run.

    Proposed ones have a star, and are in it however deep they are.

    depth counts the names between dots; None is the deepest that keeps the table short. Types are cut for the width.
    """
    *inner, output = visits
    if depth is None:
        depths = range(1, 2 + max((_depth(visit) for visit in inner), default=0))
        depth = max((d for d in depths if sum(_depth(v) <= d for v in inner) <= _MOST_ROWS), default=1)
    rows = [row for visit in inner for row in _rows(visit, proposed, depth)]
    rows.append((LOGITS, *_cells(output)))
    widths = [len("*"), *(max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True))]
    around = sum(widths) - widths[_TYPE] + 2 * (len(widths) - 1)
    widths[_TYPE] = min(widths[_TYPE], max(_NARROWEST_TYPE, width - around))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), width=around + widths[_TYPE])
    for i, (heading, wide) in enumerate(zip(("", *_HEADINGS), widths, strict=True)):
        table.add_column(heading, width=wide, justify="left" if i <= _TYPE else "right", no_wrap=True, overflow="ellipsis")
    for row in rows:
        starred = row[0] in proposed
        table.add_row("*" if starred else "", *row, style="bold" if starred else None)
    return table


def yaml_list(layers: Sequence[str]) -> str:
    """Writes layers as YAML for a study file: [conv1, fc:input, 'blocks.0[0]', '8']."""
    return f"[{', '.join(name if re.fullmatch(_PLAIN, name) else repr(name) for name in layers)}]"


def human(number: int) -> str:
    """Writes a number in three digits and a unit: 999, 1.00k, 74.0M."""
    if number < 1000:
        return str(number)
    rounded = int(float(f"{number:.3g}"))
    unit = min((len(str(rounded)) - 1) // 3, len(_UNITS))
    value = rounded / 1000**unit
    return f"{value:.{max(0, 3 - len(str(int(value))))}f}{_UNITS[unit - 1]}"


def _rows(visit: Visit, proposed: Collection[str], depth: int) -> Iterator[tuple[str, ...]]:
    name, before = str(visit.layer), str(replace(visit.layer, tensor=INPUT))
    if before in proposed:
        yield before, f"into {_type(visit)}", _text(visit.tensors[INPUT]), "", human(visit.flops_before)
    if name != LOGITS and (_depth(visit) <= depth or name in proposed):  # the last row is what `logits` stands for
        yield name, *_cells(visit)


def _cells(visit: Visit) -> tuple[str, str, str, str]:
    shapes = list(visit.outputs.values())
    output = _text(shapes[0]) + (", ..." if len(shapes) > 1 else "") if shapes else "no tensor"
    return _type(visit), output, human(visit.parameters), human(visit.flops)


def _type(visit: Visit) -> str:
    return type(visit.module).__name__


def _depth(visit: Visit) -> int:
    return visit.layer.path.count(".") + 1


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
