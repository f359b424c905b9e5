"""How the T x S pairs are weighted: constant points of the simplex, a replayed trajectory, or learned weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from kd_hpo.core.plan import LayerShape, PairPlan
from kd_hpo.core.simplex import SimplexUpdate, drawn_to, mix_with_uniform, normalised_direction, one_to_one, strongest, uniform


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
        """Whether it moves along hypergradients: `learn` is then called at each update."""
        ...

    @property
    def reads_features(self) -> bool:
        """Whether its weights are those of a batch: it is then given the features that are compared, else None."""
        ...

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        """(T, S), not negative, sum 1; or (B', T, S), those of each example.

        Where they carry a gradient, that of the training loss trains what `parameter_groups` has.
        """
        ...

    def of_epoch(self, epoch: int) -> Tensor:
        """(T, S), what is recorded of an epoch that has just been trained; asked once, at its end."""
        ...

    def total(self, epoch: int) -> float:
        """What the epoch's weights are multiplied by, beside the trial's strength: 1 but for schedules."""
        ...

    def support(self) -> Tensor:
        """(T, S), True for the pairs that may have a weight in some epoch: the others need not be compared."""
        ...

    def learn(self, hypergradient: Tensor, direct: Tensor | None = None) -> None:
        """Moves the weights against d L_out / d lambda, the sum of the two, each (T, S).

        hypergradient  what lambda does to the outer loss through the student
        direct         what it does at a fixed student, where the outer loss has lambda; None where it has not
        """
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that the training loss trains, in groups of torch.optim.Adam with a learning rate each."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class Constant:
    """One point of the simplex for the whole trial."""

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
    """A recorded trajectory: matrices (T, S) as they stood at the end of each epoch.

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


OPEN = 0.1
"""Share of the uniform point in weights that start from an earlier trial's: a pair that it had not may still come in."""


class Learned(Constant):
    """Weights that move on the simplex along a running average of their hypergradient.

    served   (T, S), not 0 for the pairs that have a weight; they alone are the simplex
    update   a step on the simplex (SIMPLEX_UPDATES)
    step     its length: mirror descent multiplies a pair that stands one RMS out by exp(step)
    average  factor of the running average of hypergradients, in [0, 1)
    mix      share of the uniform point mixed in after each step, so that a pair can come back
    forget   share of their way from the start that each step takes off the log weights: with a constant direction mirror
             descent ends where a pair that stands one RMS out has exp(step / forget) times its weight, instead of at a corner
    matched  whether only a one-to-one assignment of layers has weight
    keep     how many of these pairs, the strongest, have weight; None keeps all
    start    (T, S), from an earlier trial; None starts uniform, with all pairs alike until something has been learned
    within   factor, at least 1, by which the total may grow or shrink; above 1 it is learned, its logarithm by the same step
             times the mean of its own hypergradient over the root of that one's mean square

    What is learned are the weights of all pairs, so that one without weight can come in.
    """

    learns = True

    def __init__(
        self,
        served: Tensor,
        update: SimplexUpdate,
        *,
        step: float,
        average: float,
        mix: float,
        forget: float = 0.0,
        matched: bool = False,
        keep: int | None = None,
        start: Tensor | None = None,
        within: float = 1.0,
    ) -> None:
        self._served, self._informed = served > 0, start is not None
        even = torch.ones(served.shape) if start is None else mix_with_uniform(start / start.sum(), OPEN)
        self._start = even[self._served] / even[self._served].sum()
        self._weights, self._average = self._start, torch.zeros_like(self._start)
        self._update, self._step, self._factor, self._mix = update, step, average, mix
        self._forget, self._matched, self._keep = forget, matched, keep
        self._bound, self._log_total = math.log(within), torch.zeros(())
        self._total_slope, self._total_square = torch.zeros(()), torch.zeros(())
        self._shown = self._visible()

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        return self._shown

    def _visible(self) -> Tensor:
        """(T, S): what is learned, as far as it has weight."""
        weights = self._weights.new_zeros(self._served.shape).masked_scatter(self._served, self._weights)
        if not self._informed and not self._average.any():
            return weights
        weights = one_to_one(weights) if self._matched else weights
        return strongest(weights, self._keep) if self._keep else weights

    def total(self, epoch: int) -> float:
        return float(self._log_total.exp())

    def support(self) -> Tensor:
        return self._served

    def learn(self, hypergradient: Tensor, direct: Tensor | None = None) -> None:
        """Moves the weights, and the total where it is learned, against d L_out / d lambda (T, S).

        The total acts through the student alone: the direct part knows lambda without its total.
        """
        if self._bound:
            self._learn_total((self.weights(0) * hypergradient.to(self._weights)).sum())  # total * d L_out / d total
        whole = hypergradient if direct is None else hypergradient + direct.to(hypergradient)
        of_served = whole.to(self._weights)[self._served]
        self._average = self._factor * self._average + (1 - self._factor) * of_served
        direction = normalised_direction(self._average, self._weights)
        remembered = drawn_to(self._start, self._weights, self._forget) if self._forget else self._weights
        self._weights = mix_with_uniform(self._update(remembered, direction, self._step), self._mix)
        self._shown = self._visible()

    def _learn_total(self, slope: Tensor) -> None:
        self._total_slope = torch.lerp(slope, self._total_slope, self._factor)
        self._total_square = torch.lerp(slope.square(), self._total_square, self._factor)
        direction = self._total_slope / self._total_square.sqrt().clamp_min(torch.finfo(slope.dtype).tiny)
        self._log_total = (self._log_total - self._step * direction).clamp(-self._bound, self._bound)

    def state_dict(self) -> dict[str, Tensor]:
        total = {"log_total": self._log_total, "total_slope": self._total_slope, "total_square": self._total_square}
        return {"weights": self._weights, "average": self._average, **total}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._weights, self._average = state["weights"], state["average"]
        self._log_total, self._total_slope, self._total_square = (
            state[name] for name in ("log_total", "total_slope", "total_square")
        )
        self._shown = self._visible()


def same_depth(shape: tuple[int, int]) -> Tensor:
    """Equal weights on S pairs: student layer s with the teacher layer at the same relative depth, the last with the last."""
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
    """(t, s) by place, the logits aside: the "middle" layers, the "last" ones, or the "last_map" (else the last)."""

    def place(layers: Sequence[LayerShape]) -> int:
        count = len(layers) - plan.logits_pair
        maps = [i for i in range(count) if layers[i].height * layers[i].width > 1]
        return {"middle": count // 2, "last": count - 1, "last_map": maps[-1] if maps else count - 1}[which]

    return place(plan.teacher), place(plan.student)


def random_point(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A uniformly random point of the simplex: normalised exponential variables."""
    weights = torch.empty(shape).exponential_(generator=generator)
    return weights / weights.sum()


CONSTANT_WEIGHTINGS: dict[str, Callable[[tuple[int, int]], Tensor]] = {"uniform": uniform, "same_depth": same_depth}
