"""Every loss that compares the two layers of a pair, by name; a new one is a line here and a pass of kd_hpo.testing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kd_hpo.callables import import_callable
from kd_hpo.core.comparisons import attention, information_flow, pkt, similarity
from kd_hpo.core.contrast import Contrast
from kd_hpo.core.exits import Exit
from kd_hpo.core.plan import LayerShape, PairPlan, Size
from kd_hpo.core.regressions import Gaussian, Hint, InfoNCE
from kd_hpo.core.relations import relational
from kd_hpo.core.review import Review
from kd_hpo.core.targets import Targets
from kd_hpo.errors import ConfigError


@runtime_checkable
class PairLoss(Protocol):
    """How the two layers of a pair are compared: a frozen object that holds the loss's settings."""

    @property
    def meet(self) -> bool:
        """Whether the plan averages both features of a pair to the smaller height and width."""
        ...

    @property
    def standardised(self) -> bool:
        """Whether the targets are the teacher's channels brought to mean 0 and deviation 1, or those as they are."""
        ...

    def serves(self, teacher: LayerShape, student: LayerShape, size: Size) -> str | None:
        """Tells why there is nothing to compare in these layers, with the target at this size; None where there is.

        The loss of a pair that it does not serve is 0.
        """
        ...

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        """The losses of all pairs of a plan: forward(features, blocks, weights) gives (B, pairs) for each of plan.groups.

        features  S tensors of the student
        blocks    as in Targets
        weights   for each group None, (pairs,) or (B, pairs). The value knows no weight: backward, each pair's gradient
                  enters the student multiplied by its weight, and that of the module's own parameters stays at unit weight
        """
        ...


@runtime_checkable
class BatchMeans(Protocol):
    """A module of a pair loss that has a faster way to the mean over the batch."""

    def means(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Tensor | None, needed: Tensor | None
    ) -> Tensor:
        """The means over the batch (pairs,), in the order of plan.groups and their teachers.

        weights  None or of all pairs, (T, S)
        needed   None or (T, S): where it is False, a loss may be left out, and is 0 then
        """
        ...


@runtime_checkable
class OfTargets(Protocol):
    """A module of a pair loss that reads more of a batch's targets than blocks, such as labels; it is not called itself."""

    def of_targets(self, features: Sequence[Tensor], targets: Targets, weights: Sequence[Tensor | None]) -> list[Tensor]:
        """The losses (B, pairs) for each of plan.groups; features and weights as those of `PairLoss.module`."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A module of a pair loss that keeps a memory of the training images, in buffers that its forward leaves as they are."""

    negatives: int
    """How many other images each is compared with: the targets then have `rows` and `negatives`."""

    def remember(self, features: Sequence[Tensor], targets: Targets) -> None:
        """Keeps what the step's batch says, after its losses."""
        ...


@runtime_checkable
class AcrossLayers(Protocol):
    """A module of a pair loss in which a pair depends on other student layers than its own, too."""

    across_layers: Literal[True]


@runtime_checkable
class SharedParameters(Protocol):
    """A module of a pair loss whose parameters hold the numbers of several pairs, of which `means` may leave out some."""

    def resting(self, needed: Tensor) -> Mapping[nn.Parameter, Tensor]:
        """The numbers of parameters that a step with `needed` (T, S) does not train, and which must rest.

        They are True, in the parameter's shape. A parameter that gets no gradient at all rests by itself.
        """
        ...


PAIR_LOSSES: dict[str, Callable[..., PairLoss]] = {
    "gaussian": Gaussian,
    "hint": Hint,
    "infonce": InfoNCE,
    "attention": attention,
    "similarity": similarity,
    "pkt": pkt,
    "ifm": information_flow,
    "rkd": relational,
    "exit": Exit,
    "review": Review,
    "crd": Contrast,
}


def pair_loss(kind: str, **settings: Any) -> PairLoss:
    """A loss of PAIR_LOSSES, or, of the kind `callable`, what the callable at `reference` makes of its `options`.

    Raises ConfigError where that is no PairLoss.
    """
    if kind != "callable":
        return PAIR_LOSSES[kind](**settings)
    loss = import_callable(settings["reference"])(**settings["options"])
    if not isinstance(loss, PairLoss):
        raise ConfigError(
            f"{settings['reference']} returned a {type(loss).__name__}; a pair loss has meet, standardised, serves and module: "
            "return a kd_hpo.core.comparisons.Comparison, or a class like those in kd_hpo.core.regressions"
        )
    return loss


def entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of weights that sum to 1, any shape -> (); 0 at a corner, log(T S) where uniform."""
    total: Tensor = torch.special.xlogy(weights, weights).sum()
    return -total
