"""How the T x S pairs are weighted: constant points of the simplex, or a replayed trajectory; `core.learned` has learned ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kd_hpo.core.plan import LayerShape, PairPlan
from kd_hpo.core.simplex import uniform


@dataclass(frozen=True)
class Compared:
    """The features of one batch, as far as pairs are compared on it.

    student  S tensors (B', ...), of its first B' examples
    teacher  T tensors (B', h * w, C), each at the finest resolution that any pair reads it at
    """

    student: Sequence[Tensor]
    teacher: Sequence[Tensor]


@runtime_checkable
class Weighting(Protocol):
    """Gives the pair weights, and says itself whether and how they learn; `state_dict` is what a checkpoint keeps.

    A weighting of one's own is a line in a study file and a pass of the contract test in kd_hpo.testing.
    """

    @property
    def learns(self) -> bool:
        """Whether the weighting moves along hypergradients: `learn` is then called at each update."""
        ...

    @property
    def reads_features(self) -> bool:
        """Whether the weights are those of a batch: the weighting is then given the features that are compared, else None."""
        ...

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        """Gives the weights (T, S), not negative and of sum 1; or (B', T, S), those of each example.

        Where they carry a gradient, that of the training loss trains what `parameter_groups` has.
        """
        ...

    def of_epoch(self, epoch: int) -> Tensor:
        """Gives the weights (T, S) that are recorded of an epoch that has just been trained; asked once, at its end."""
        ...

    def total(self, epoch: int) -> float:
        """Gives what the epoch's weights are multiplied by, beside the trial's strength: 1 but for schedules."""
        ...

    def support(self) -> Tensor:
        """Tells which pairs may have a weight in some epoch: True in (T, S); the others need not be compared."""
        ...

    def learn(self, hypergradient: Tensor, direct: Tensor | None = None) -> None:
        """Moves the weights against d L_out / d lambda, the sum of the two, each (T, S).

        hypergradient  what lambda does to the outer loss through the student
        direct         what it does at a fixed student, where the outer loss has lambda; None where it has not
        """
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters that the training loss trains, in groups of torch.optim.Adam with a learning rate each."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@runtime_checkable
class Gathers(Protocol):
    """A weighting that also hears hypergradients before it moves, and says which of its pairs are known to help."""

    def gather(self, hypergradient: Tensor, direct: Tensor | None = None) -> None:
        """Hears a hypergradient as `learn` does, without moving the weights."""
        ...

    def t_values(self) -> Tensor | None:
        """Tells how many standard errors a pair's help stands above the middle one's: (T, S), 0 where unknown.

        None where no hypergradients are gathered.
        """
        ...


class Constant:
    """A weighting by one point of the simplex for the whole trial."""

    learns = reads_features = False

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights / weights.sum()

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        return self._weights

    def of_epoch(self, epoch: int) -> Tensor:
        return self.weights(epoch)

    def total(self, epoch: int) -> float:
        return 1.0

    def support(self) -> Tensor:
        return self._weights > 0

    def learn(self, hypergradient: Tensor, direct: Tensor | None = None) -> None:
        raise TypeError(f"{type(self).__name__} does not learn")

    def parameter_groups(self) -> list[dict[str, Any]]:
        return []

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class Replay(Constant):
    """A weighting by a recorded trajectory: matrices (T, S) as they stood at the end of each epoch.

    Each is the one that the next epoch starts from, and that it is trained with; the first epoch's is `start` (T, S), or uniform
    over the served pairs (T, S), as where lambda is learned. The last one serves any epoch beyond. So do the totals, one a
    matrix, of which none are 1 throughout.
    """

    def __init__(
        self, trajectory: Sequence[Tensor], served: Tensor, *, start: Tensor | None = None, totals: Sequence[float] = ()
    ) -> None:
        self._trajectory = [weights / weights.sum() for weights in trajectory]
        first = served if start is None else start
        self._start = first / first.sum()
        self._totals = totals or [1.0] * len(trajectory)

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        return self.of_epoch(epoch - 1) if epoch else self._start

    def of_epoch(self, epoch: int) -> Tensor:
        return self._trajectory[min(epoch, len(self._trajectory) - 1)]

    def total(self, epoch: int) -> float:
        return self._totals[min(epoch, len(self._totals)) - 1] if epoch else 1.0

    def support(self) -> Tensor:
        return torch.stack([self._start, *self._trajectory]).amax(0) > 0


class InformationFlow(Constant):
    """The critical period (Passalis et al. 2020): the last student layer's pairs have weight 1, others `start * decay ** epoch`.

    pairs  (T, S), not 0 for the pairs that have a weight
    """

    def __init__(self, pairs: Tensor, *, start: float, decay: float) -> None:
        self._pairs, self._start, self._decay = (pairs > 0).to(pairs), start, decay

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        return self._unnormalised(epoch) / self.total(epoch)

    def total(self, epoch: int) -> float:
        return float(self._unnormalised(epoch).sum())

    def support(self) -> Tensor:
        return self._pairs > 0

    def _unnormalised(self, epoch: int) -> Tensor:
        weights = self._pairs * self._start * self._decay**epoch
        weights[:, -1] = self._pairs[:, -1]
        return weights


class RandomLayers(Constant):
    """Equal weights on pairs that are drawn anew each epoch: for each student layer one of the teacher's, in the teacher's order.

    RAIL-KD, Haidar et al. 2022, section 3: without replacement as far as the teacher has layers. What an epoch draws depends on
    the epoch's generator alone.

    served  (T, S), not 0 for the pairs that the loss can compare: a drawn pair that it cannot is left out
    logits  whether the last pair is that of the logits, which is kept at each draw, and its layers are not drawn
    chance  gives an epoch's generator, in the same state whenever it is asked
    """

    def __init__(self, served: Tensor, *, logits: bool, chance: Callable[[int], torch.Generator]) -> None:
        self._served, self._logits, self._chance = served > 0, logits, chance

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        chance = self._chance(epoch)
        while not (drawn := self._draw(chance) & self._served).any():  # some pair is served, so some draw has one
            pass
        return drawn / drawn.sum()

    def _draw(self, chance: torch.Generator) -> Tensor:
        T, S = (size - self._logits for size in self._served.shape)
        drawn = torch.zeros_like(self._served)
        if T and S:
            layers = torch.cat([torch.randperm(T, generator=chance) for _ in range(math.ceil(S / T))])[:S].sort().values
            drawn[layers, torch.arange(S)] = True
        drawn[-1, -1] |= self._logits
        return drawn

    def support(self) -> Tensor:
        return self._served


def same_depth(shape: tuple[int, int]) -> Tensor:
    """Weighs S pairs equally: student layer s with the teacher layer at the same relative depth, the last with the last."""
    T, S = shape
    weights = torch.zeros(shape)
    for s in range(S):
        t = (2 * s * (T - 1) + S - 1) // (2 * (S - 1)) if S > 1 else T - 1  # of two that are as near, the deeper one
        weights[t, s] = 1
    return weights / S


def one_pair(shape: tuple[int, int], t: int, s: int) -> Tensor:
    weights = torch.zeros(shape)
    weights[t, s] = 1
    return weights


def selected_pair(plan: PairPlan, which: str) -> tuple[int, int]:
    """Finds a pair (t, s) by place, the logits aside: the "middle" layers, the "last" ones, or the "last_map" (else the last)."""

    def place(layers: Sequence[LayerShape]) -> int:
        count = len(layers) - plan.logits_pair
        maps = [i for i in range(count) if layers[i].height * layers[i].width > 1]
        return {"middle": count // 2, "last": count - 1, "last_map": maps[-1] if maps else count - 1}[which]

    return place(plan.teacher), place(plan.student)


def random_point(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draws a uniformly random point of the simplex: normalised exponential variables."""
    weights = torch.empty(shape).exponential_(generator=generator)
    return weights / weights.sum()


CONSTANT_WEIGHTINGS: dict[str, Callable[[tuple[int, int]], Tensor]] = {"uniform": uniform, "same_depth": same_depth}
