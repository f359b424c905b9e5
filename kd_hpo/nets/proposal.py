"""Which layers of a network one would name: the last of each stage, and what the last weights are given."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile, groupby
from typing import TypeVar

import torch
from torch import nn

from kd_hpo.core.plan import LayerShape
from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import FeatureTap, dry_run
from kd_hpo.nets.inputs import Given
from kd_hpo.nets.layer_syntax import INPUT
from kd_hpo.nets.trace import Shape, Visit, trace

MOST_STAGES = 6
FEWEST_STAGES = 3
PARTS = 4
"""Of a stage that is divided: in a transformer or mixer, whose blocks are all alike, it is all blocks."""


@dataclass(frozen=True)
class Unit:
    """A unit of a network: a block; or one layer with weights, and the norm, activation and pooling that follow it."""

    first: Visit
    last: Visit
    """What stands for the unit; for a block, itself."""
    shape: LayerShape
    """Of the first, so that a convolution with its pooling is of the stage that it ends."""
    is_block: bool


Stage = Sequence[Unit]
T = TypeVar("T")


def propose_layers(network: nn.Module, given: Given, output: str | int | None = None) -> tuple[str, ...]:
    """The last layer of each stage, in order of execution, then the penultimate layer, unless one of them has its values.

    A stage is units of one shape in a row; where that makes more than six, of one resolution. Where it makes one or two, the
    largest is divided, as in a transformer. The stem before the first block is none, and the logits are not proposed.
    output  which of the tensors that the network returns is its output, where it returns more than one
    Raises FeatureMismatch if there is nothing to propose.
    """
    visits = trace(network, given)
    head = _head(visits)
    features = visits[: visits.index(head)] if head else [v for v in visits if v.identity != visits[-1].identity]
    units = _without_stem(list(_units(visits[-1], set(features))), visits[-1])
    while units and _tensor(units[-1]) == visits[-1].tensors.get(""):  # other logits, such as those of a second head
        units = units[:-1]
    stages = _stages(units)
    names = [_name(stage, features) for stage in stages]
    if head and head.flops_before and INPUT in head.tensors:
        penultimate = str(replace(head.layer, tensor=INPUT))
        if not _same_values(network, given, names, penultimate, output):
            if stages and _only_activated(stages[-1][-1], head):
                names.pop()
            names.append(penultimate)
    if not names:
        raise FeatureMismatch(f"{type(network).__name__} has no layer before its logits that could be proposed; name its layers")
    return tuple(names)


def _flops(visit: Visit) -> int:
    return visit.flops - visit.flops_before


def _weight_layers(visit: Visit) -> int:
    """The modules in it that multiply and hold none that does; norms and activations do not."""
    return sum(map(_weight_layers, visit.children)) or int(_flops(visit) > 0)


def _head(visits: Sequence[Visit]) -> Visit | None:
    """The layer that makes the logits: the last that multiplies, if it has a name and nothing multiplies after it."""
    layers = [visit for visit in visits if _flops(visit) and not any(map(_flops, visit.children))]
    return layers[-1] if layers and layers[-1].flops == visits[-1].flops and layers[-1].layer.path else None


def _units(network: Visit, features: set[Visit]) -> Iterator[Unit]:
    for run in _runs(network, network):
        unit: Unit | None = None
        for visit in (each for each in run if each in features):
            if unit and not _flops(visit) and not unit.is_block and _continues(unit.last, visit):
                unit = replace(unit, last=visit)
                continue
            if unit:
                yield unit
            unit = None
            if _flops(visit) and visit.shape:
                unit = Unit(visit, visit, visit.shape, _weight_layers(visit) > 1 and not _is_open(visit, network))
        if unit:
            yield unit


def _continues(before: Visit, after: Visit) -> bool:
    """Whether it is a norm, an activation or a pooling of a window, not one that takes a map to a vector."""
    if before.shape is None or after.shape is None:
        return False
    (h, w), (height, width) = _size(after.shape), _size(before.shape)
    return h <= height and w <= width and ((h, w) > (1, 1) or (height, width) == (1, 1))


def _runs(visit: Visit, network: Visit) -> Iterator[list[Visit]]:
    """The path through the network, cut into the calls that one module makes in a row."""
    run: list[Visit] = []
    for child in visit.children:
        if _is_open(child, network):
            yield run
            yield from _runs(child, network)
            run = []
        else:
            run.append(child)
    yield run
    if visit.identity not in {child.identity for child in visit.children}:
        yield [visit]  # ends with an operation of its own, such as a residual sum


def _is_open(visit: Visit, network: Visit) -> bool:
    """Whether it is read as what is in it: a plain Sequential, or a module that does most of the work."""
    return type(visit.module) is nn.Sequential or (bool(visit.children) and 2 * _flops(visit) > _flops(network))


def _without_stem(units: Sequence[Unit], network: Visit) -> Sequence[Unit]:
    """In a network of blocks, from the first block on."""
    blocks = sum(_flops(unit.first) for unit in units if unit.is_block)
    return list(dropwhile(lambda unit: not unit.is_block, units)) if 2 * blocks > _flops(network) else units


def _tensor(unit: Unit) -> Shape:
    return unit.last.tensors[unit.last.layer.tensor]


def _only_activated(unit: Unit, head: Visit) -> bool:
    """Whether the head is given this vector after functions without weights: then the penultimate layer says it better."""
    vector = _tensor(unit)
    return len(vector) == 1 and vector == head.tensors.get(INPUT) and unit.first.flops == head.flops_before


def _stages(units: Sequence[Unit]) -> list[Stage]:
    stages = _rows(units, lambda shape: (shape.channels, shape.height, shape.width))
    if len(stages) > MOST_STAGES:
        by_size = _rows(units, _size)
        return _evenly(by_size if len(by_size) >= FEWEST_STAGES else stages, MOST_STAGES)
    if stages and len(stages) < FEWEST_STAGES:
        at = max(range(len(stages)), key=lambda i: sum(_flops(unit.first) for unit in stages[i]))
        if len(stages) == 1 or len(stages[at]) >= PARTS:
            stages[at : at + 1] = _parts(stages[at], min(PARTS, len(stages[at])))
    return stages


def _rows(units: Sequence[Unit], key: Callable[[LayerShape], tuple[int, ...]]) -> list[Stage]:
    return [list(row) for _, row in groupby(units, lambda unit: key(unit.shape))]


def _evenly(stages: list[Stage], count: int) -> list[Stage]:
    """At most so many, and the last."""
    return [part[-1] for part in _parts(stages, min(count, len(stages)))]


def _parts(items: Sequence[T], count: int) -> list[Sequence[T]]:
    return [items[len(items) * i // count : len(items) * (i + 1) // count] for i in range(count)]


def _name(stage: Stage, features: Sequence[Visit]) -> str:
    """Of the outermost module that returns the stage's last tensor and holds nothing from before the stage."""
    start, last = stage[0].first.flops_before, stage[-1].last
    same = [visit for visit in features if visit.identity == last.identity and visit.flops_before >= start]
    return str(min(same, key=lambda visit: (visit.flops_before, visit.layer.path.count("."))).layer)


def _size(shape: LayerShape) -> tuple[int, int]:
    return shape.height, shape.width


def _same_values(network: nn.Module, given: Given, names: Sequence[str], penultimate: str, output: str | int | None) -> bool:
    """Whether a named layer has the values of the penultimate one, but for their shape."""
    with FeatureTap(network, (*names, penultimate), output) as tap:
        *features, last = dry_run(tap, given)[1]
    return any(torch.equal(feature.flatten(1), last.flatten(1)) for feature in features)
