"""A teacher and a student of one's own, wrapped: their layers, and the teacher as pairs read it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.errors import ConfigError, about
from kd_hpo.nets.features import LOGITS, FeatureTap, layer_shapes
from kd_hpo.nets.inputs import Example
from kd_hpo.nets.layer_names import resolve_layers
from kd_hpo.nets.precision import Precision
from kd_hpo.nets.teacher_view import TeacherView, measured
from kd_hpo.nets.wrappers import COMPILED
from kd_hpo.trial.passes import compiled_pass

Layers = Sequence[str] | Literal["auto"]
Output = str | int | None


@dataclass(frozen=True)
class Wrapped:
    """A network as its owner gives it: bare, compiled by torch.compile, or in DistributedDataParallel."""

    bare: nn.Module
    given: nn.Module

    @classmethod
    def of(cls, network: nn.Module) -> "Wrapped":
        """Looks into the wrapper. Raises ConfigError for one that pairs cannot be read through."""
        if isinstance(network, nn.DataParallel):
            raise ConfigError("the network is in DataParallel, whose copies show no features; use DistributedDataParallel")
        bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else compiled_inside(network)
        if compiled_inside(bare) is not bare or isinstance(bare, nn.parallel.DistributedDataParallel):
            raise ConfigError(
                "the network is both compiled and in DistributedDataParallel, and features are read through one of them only; "
                "give the one in DistributedDataParallel, not compiled"
            )
        return cls(bare, network)

    @property
    def is_compiled(self) -> bool:
        return compiled_inside(self.given) is not self.given

    def runner(self, tap: FeatureTap) -> Callable[[Any], tuple[Tensor, list[Tensor]]]:
        """Gives what runs the tapped network as its owner wants it run."""
        if self.is_compiled:
            compiled = torch.compile(tap, fullgraph=True)  # whole: a part left out would be a silent fallback
            return lambda x: compiled_pass(compiled, x)
        return tap if self.given is self.bare else lambda x: tap.through(self.given, x)


def compiled_inside(network: nn.Module) -> nn.Module:
    """The network in torch.compile's wrapper; the network itself without one."""
    children = [name for name, _ in network.named_children()]
    return network.get_submodule(COMPILED) if children == [COMPILED] else network


def tapped(
    network: nn.Module, layers: Layers, output: Output, example: Example, *, logits: bool, whose: str
) -> tuple[FeatureTap, tuple[LayerShape, ...]]:
    """Taps the layers that names, globs or `auto` stand for, and then the logits, where those are a layer too.

    Raises FeatureMismatch for layers that the network does not have, or that cannot be read.
    """
    with about(whose):
        names = () if not layers else resolve_layers(network, layers, example, output)
        tap = FeatureTap(network, (*(n for n in names if not (logits and n == LOGITS)), *([LOGITS] if logits else [])), output)
        return tap, layer_shapes(tap, example)


def viewed_teacher(
    teacher: nn.Module,
    layers: Layers,
    output: Output,
    example: Example,
    student: Sequence[LayerShape],
    loss: PairLoss,
    inputs: Iterable[Any],
    precision: Precision,
    *,
    logits: bool,
) -> TeacherView:
    """Makes the view of a teacher whose channels are standardised over the inputs, where the loss wants them so.

    Raises FeatureMismatch for a layer that never varies on them.
    """
    tap, shapes = tapped(teacher, layers, output, example, logits=logits, whose="teacher")
    tap.close()
    everything = pair_plan(shapes, student, logits_pair=logits, meet=loss.meet)
    if not loss.standardised or not shapes:
        return TeacherView.as_it_is(teacher, shapes, everything, precision, output)
    with about("teacher"):
        varies, statistics = measured(teacher, shapes, everything, inputs, precision, output, on="the example")
    plain = TeacherView.as_it_is(teacher, shapes, everything, precision, output)
    return with_channels(plain, [live.nonzero().flatten() for live in varies], statistics, loss)


def with_channels(
    view: TeacherView, channels: Sequence[Tensor], statistics: Mapping[tuple[int, int], Tensor], loss: PairLoss
) -> TeacherView:
    """The view with these channels of each layer, and these means and deviations of theirs, (2, C) for each resolution."""
    device = view.precision.device
    kept = [replace(shape, channels=len(live)) for shape, live in zip(view.shapes, channels, strict=True)]
    plan = pair_plan(kept, view.plan.student, logits_pair=view.plan.logits_pair, meet=loss.meet)
    of_channels = {size: values.to(device) for size, values in statistics.items()}
    return replace(view, plan=plan, channels=tuple(live.to(device) for live in channels), statistics=of_channels)


class LoopPrecision:
    """The precision of a training loop: networks run under the autocast that its owner's call is under, losses in full."""

    def __init__(self, student: nn.Module) -> None:
        first = next((p for p in student.parameters() if p.is_floating_point()), torch.zeros(()))
        self.device = first.device
        self.dtype = first.dtype if first.dtype in (torch.float32, torch.float64) else torch.float32
        self._autocast: torch.dtype | None = None

    def follow(self) -> None:
        """Takes over the autocast that is in force. Raises ConfigError for float16, whose scaled losses lambda cannot read."""
        kind = self.device.type
        self._autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        if self._autocast == torch.float16:
            raise ConfigError(
                "autocast is in float16, whose losses are scaled, the gradients of regressors and of lambda with them; "
                "use torch.bfloat16"
            )

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self._autocast or torch.bfloat16, enabled=self._autocast is not None)

    def full(self) -> AbstractContextManager[object]:
        """Gives what losses are computed in."""
        return torch.autocast(self.device.type, enabled=False)
