"""What hypergradients are known to say: a mean and its standard error for each pair, and the part that is beyond doubt."""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from kd_hpo.core.student_t import t_quantile

BLOCKS = 32
"""At most so many blocks are kept; where they are full, two become one, of twice as many hypergradients."""
FEWEST = 30
"""Hypergradients, below which nothing is known: fewer do not tell chance that lasts from a pair that helps."""
DOUBT = 0.02
"""The chance that, of pairs which are all alike, any seems to stand out; half of it that one seems to help."""
_SHARED = 8.0
"""Degrees of freedom of the variance that all pairs share, beside a pair's own."""
_LEAST = 0.1
"""The variance of one hypergradient, of RMS 1 over pairs, is taken to be no less: signs that agree by chance are no certainty."""


class Known(NamedTuple):
    """What is known of P pairs.

    mean, error  (P,): of the hypergradients as `Evidence` scales them, a mean that is below 0 where the pair helps
    bound        (P,): how far from 0 a mean must be to be more than chance
    """

    mean: Tensor
    error: Tensor
    bound: Tensor


def between_pairs(hypergradients: Tensor) -> Tensor:
    """Takes each hypergradient from the level of its middle pair, over the RMS of what is left: (..., P) -> (..., P).

    Zero where all pairs are the same.
    """
    away = hypergradients - hypergradients.quantile(0.5, dim=-1, keepdim=True)
    rms = away.square().mean(-1, keepdim=True).sqrt()
    same = rms <= torch.finfo(rms.dtype).eps * hypergradients.abs().amax(-1, keepdim=True)
    return torch.where(same, 0.0, away / rms)


class Evidence:
    """Gathers hypergradients of P pairs and says what they are evidence of.

    Each one is taken from the level of the middle pair, since only differences can move a point of the simplex, and divided by
    the RMS of what is left, which makes early and late ones comparable. (From the mean, one strong pair would be seen in all.)
    They are autocorrelated: the standard error is that of means of blocks (batch means, Flegal & Jones 2010), whose size grows
    with their number, off a straight line, since pairs get better as regressors do, and corrected by the lag-one correlation
    that blocks still have. That is the median pair's, less its bias in short series (Kendall 1954), with half a standard error
    of its own; the variance is in part that of all pairs (Smyth 2004): a few updates of one pair would tell neither.
    """

    def __init__(self, pairs: int) -> None:
        self._sums, self._count, self._size = torch.zeros(BLOCKS, pairs), 0, 1

    def add(self, hypergradient: Tensor) -> None:
        """Adds a hypergradient (P,); one that is the same for all pairs says nothing about them, and is not counted."""
        said = between_pairs(hypergradient)
        if not said.any():
            return
        if self._count == BLOCKS * self._size:
            halves = self._sums.view(BLOCKS // 2, 2, -1).sum(1)
            self._sums, self._size = torch.cat([halves, torch.zeros_like(halves)]), 2 * self._size
        self._sums[self._count // self._size] += said
        self._count += 1

    def mean(self) -> Tensor:
        """Gives the mean (P,) of what was gathered, known or not."""
        return self._sums.sum(0) / max(self._count, 1)

    def known(self) -> Known | None:
        """Gives mean, error and bound; None while there is too little to tell chance by."""
        if self._count < FEWEST:
            return None
        blocks = self._count // self._size
        away = _off_line(self._sums[:blocks] / self._size)
        squares = away.square().sum(0).clamp_min(torch.finfo(away.dtype).tiny)
        seen = float(((away[1:] * away[:-1]).sum(0) / squares).quantile(0.5))
        unsure = 0.5 / sqrt(blocks * max(len(squares) - 1, 1))
        correlation = min(max((blocks * seen + 2) / (blocks - 4), 0.0) + unsure, 1.0)  # E seen = r - (2 + 4 r) / blocks
        independent = blocks * (1 - correlation) / (1 + correlation)
        free = independent - 2
        if free <= 1:
            return None
        variance = squares / blocks * independent / free
        variance = (_SHARED * variance.mean() + free * variance) / (_SHARED + free)
        error = (variance.clamp_min(_LEAST / self._size) / independent).sqrt()
        return Known(self.mean(), error, t_quantile(_SHARED + free, 1 - DOUBT / (2 * len(error))) * error)

    def direction(self) -> Tensor:
        """Gives the mean hypergradient (P,) as far as it is known, in units of the RMS of all means; 0 where nothing stands out.

        A mean m is taken times ((m / bound)^2 - 1), from 0 to 1 (firm shrinkage, Gao & Bruce 1997): nothing within its bound,
        which is such that of pairs that are all alike none is moved but in DOUBT of the trials (Bonferroni, Student's t), and
        all of it from 1.4 times that. James & Stein's m^2 / (m^2 + error^2) moves by half where m is one standard error: over
        a thousand updates noise then ends on one pair (`studies/bench/evidence.py`).
        A pair that helps may be as good as the end of its interval, but is moved no more than the one that is moved most by its
        own mean: pairs of which it is not known which is better share alike.
        """
        known = self.known()
        if known is None:
            return torch.zeros_like(self._sums[0])
        mean, bound = known.mean, known.bound
        certain = ((mean / bound).square() - 1).clamp(0, 1)
        moved = mean * certain
        helps = torch.maximum((mean - bound) * certain, moved.min())
        return torch.where(mean < 0, helps, moved) / mean.square().mean().sqrt().clamp_min(torch.finfo(mean.dtype).tiny)

    def t_values(self) -> Tensor:
        """Tells how many standard errors (P,) each pair's help stands above the middle pair's; 0 while nothing is known."""
        known = self.known()
        return torch.zeros_like(self._sums[0]) if known is None else -known.mean / known.error

    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self._sums.clone(), "count": torch.tensor(self._count), "size": torch.tensor(self._size)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums, self._count, self._size = state["sums"].clone(), int(state["count"]), int(state["size"])


def _off_line(series: Tensor) -> Tensor:
    """(n, P) less the straight line of least squares through each column."""
    along = torch.linspace(-1, 1, len(series)).to(series)[:, None]
    away = series - series.mean(0)
    return away - along * (along * away).sum(0) / along.square().sum()
