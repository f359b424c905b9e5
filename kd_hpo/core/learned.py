"""Weights that are learned by hypergradient: they move along an average, or on evidence only."""

import math

import torch
from torch import Tensor

from kd_hpo.core.evidence import Evidence
from kd_hpo.core.simplex import SimplexUpdate, drawn_to, mix_with_uniform, normalised_direction, one_to_one, strongest
from kd_hpo.core.weightings import Compared, Constant

AVERAGE = 0.9
"""Factor of the running averages where none is given."""
TIE = 1e-3
"""Length of the step along the mean hypergradient that parts pairs whose difference is not known, where some must go."""
OPEN = 0.1
"""Share of the uniform point in weights that start from an earlier trial's: a pair that it had not may still come in."""


class Learned(Constant):
    """Weights that move on the simplex along what their hypergradients are evidence of, or along a running average of them.

    On evidence, they are one step from their start, as long as all updates together: for mirror descent that is where as many
    steps along the same direction end (dual averaging, Nesterov 2009), and what seemed known and no longer is, is taken back.

    served   (T, S), not 0 for the pairs that have a weight; they alone are the simplex
    update   a step on the simplex (SIMPLEX_UPDATES)
    step     its length: mirror descent multiplies a pair that stands one RMS out by exp(step)
    average  factor of the running average of hypergradients, in [0, 1); None moves on evidence only (`core.evidence`)
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
        average: float | None,
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
        self._update, self._step, self._factor, self._mix = update, step, AVERAGE if average is None else average, mix
        self._evidence = Evidence(self._start.numel()) if average is None else None
        self._length = 0.0
        self._forget, self._matched, self._keep = forget, matched, keep
        self._bound, self._log_total = math.log(within), torch.zeros(())
        self._total_slope, self._total_square = torch.zeros(()), torch.zeros(())
        self._shown = self._visible()

    def weights(self, epoch: int, features: Compared | None = None) -> Tensor:
        return self._shown

    def _visible(self) -> Tensor:
        """(T, S): what is learned, as far as it has weight."""
        weights = self._of_pairs(self._weights)
        unmoved = not self._average.any() if self._evidence is None else torch.equal(self._weights, self._start)
        if unmoved and not self._informed:
            return weights
        if self._evidence is not None and (self._matched or self._keep):  # of pairs that share alike, those that look best
            weights = self._of_pairs(self._update(self._weights, self._evidence.mean(), TIE))
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
        of_served = self._of_served(hypergradient, direct)
        if self._evidence is not None:
            self._evidence.add(of_served)
            self._length = (1 - self._forget) * self._length + 1
            self._weights = self._on_evidence(self._evidence.direction())
            self._shown = self._visible()
            return
        self._average = self._factor * self._average + (1 - self._factor) * of_served
        direction = normalised_direction(self._average, self._weights)
        remembered = drawn_to(self._start, self._weights, self._forget) if self._forget else self._weights
        self._weights = mix_with_uniform(self._update(remembered, direction, self._step), self._mix)
        self._shown = self._visible()

    def gather(self, hypergradient: Tensor, direct: Tensor | None = None) -> None:
        if self._evidence is not None:
            self._evidence.add(self._of_served(hypergradient, direct))

    def t_values(self) -> Tensor | None:
        if self._evidence is None:
            return None
        return self._of_pairs(self._evidence.t_values())

    def _of_pairs(self, of_served: Tensor) -> Tensor:
        return of_served.new_zeros(self._served.shape).masked_scatter(self._served, of_served)

    def _of_served(self, hypergradient: Tensor, direct: Tensor | None) -> Tensor:
        whole = hypergradient if direct is None else hypergradient + direct.to(hypergradient)
        return whole.to(self._weights)[self._served]

    def _on_evidence(self, direction: Tensor) -> Tensor:
        if not direction.any():
            return self._start
        return mix_with_uniform(self._update(self._start, direction, self._step * self._length), self._mix)

    def _learn_total(self, slope: Tensor) -> None:
        self._total_slope = torch.lerp(slope, self._total_slope, self._factor)
        self._total_square = torch.lerp(slope.square(), self._total_square, self._factor)
        direction = self._total_slope / self._total_square.sqrt().clamp_min(torch.finfo(slope.dtype).tiny)
        self._log_total = (self._log_total - self._step * direction).clamp(-self._bound, self._bound)

    def state_dict(self) -> dict[str, Tensor]:
        total = {"log_total": self._log_total, "total_slope": self._total_slope, "total_square": self._total_square}
        known = {} if self._evidence is None else {**self._evidence.state_dict(), "length": torch.tensor(self._length).double()}
        return {"weights": self._weights, "average": self._average, **total, **known}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._weights, self._average = state["weights"], state["average"]
        self._log_total, self._total_slope, self._total_square = (
            state[name] for name in ("log_total", "total_slope", "total_square")
        )
        if self._evidence is not None:
            self._evidence.load_state_dict(state)
            self._length = float(state["length"])
        self._shown = self._visible()
