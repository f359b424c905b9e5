"""What hypergradients are known to say: a mean and its standard error for each pair, and the part that is beyond doubt."""

from math import sqrt
from typing import NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

BLOCKS = 32
"""At most so many blocks are kept; where they are full, two become one, of twice as many hypergradients."""
FEWEST = 8
"""Blocks, below which nothing is known."""
DOUBT = 0.01
"""The chance that, of pairs which are all alike, any seems to stand out."""
_PRIOR = 4.0
"""Degrees of freedom of the variance that all pairs share, beside a pair's own."""
_LEAST = 0.1
"""The variance of one hypergradient, of RMS 1 over pairs, is taken to be no less: signs that agree by chance are no certainty."""


class Known(NamedTuple):
    """mean, error  (P,): of the pairs' hypergradients, each update centred over pairs and brought to RMS 1; its standard error
    bound        standard errors that a pair has to stand out by
    """

    mean: Tensor
    error: Tensor
    bound: float


class Evidence:
    """Gathers hypergradients of P pairs and says what they are evidence of.

    Each one is centred over the pairs, since only differences can move a point of the simplex, and divided by its own RMS, which
    makes early and late ones comparable. They are autocorrelated: the standard error is that of means of blocks (batch means,
    Flegal & Jones 2010), whose size grows with their number, corrected by the lag-one correlation that blocks still have: less
    its bias in short series (Kendall 1954), and with two standard errors of its own. Correlation and, in part, variance are
    pooled over pairs (Smyth 2004), or a trial of a few updates would know neither.
    """

    def __init__(self, pairs: int) -> None:
        self._sums, self._count, self._size = torch.zeros(BLOCKS, pairs), 0, 1

    def add(self, hypergradient: Tensor) -> None:
        """One of (P,); one that is the same for all pairs says nothing about them, and is not counted."""
        centred = hypergradient - hypergradient.mean()
        rms = centred.square().mean().sqrt()
        if rms <= torch.finfo(rms.dtype).eps * hypergradient.abs().max():
            return
        if self._count == BLOCKS * self._size:
            halves = self._sums.view(BLOCKS // 2, 2, -1).sum(1)
            self._sums, self._size = torch.cat([halves, torch.zeros_like(halves)]), 2 * self._size
        self._sums[self._count // self._size] += centred / rms
        self._count += 1

    def mean(self) -> Tensor:
        """(P,): of what was gathered, known or not."""
        return self._sums.sum(0) / max(self._count, 1)

    def known(self) -> Known | None:
        """None while there is too little to tell chance by."""
        blocks = self._count // self._size
        if blocks < FEWEST:
            return None
        away = self._sums[:blocks] / self._size
        away = away - away.mean(0)
        squares = away.square().sum(0)
        seen = float((away[1:] * away[:-1]).sum() / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny))
        unsure = 2 / sqrt(blocks * max(squares.numel() - 1, 1))
        correlation = min(max((blocks * seen + 1) / (blocks - 3), 0.0) + unsure, 1.0)
        independent = blocks * (1 - correlation) / (1 + correlation)
        if independent <= 2:
            return None
        free = independent - 1
        variance = squares / blocks * independent / free
        variance = (_PRIOR * variance.mean() + free * variance) / (_PRIOR + free)
        error = (variance.clamp_min(_LEAST / self._size) / independent).sqrt()
        bound = float(stdtrit(_PRIOR + free, 1 - DOUBT / (2 * error.numel())))
        return Known(self.mean(), error, bound)

    def direction(self) -> Tensor:
        """(P,): the mean hypergradient as far as it is known, in units of the RMS of all means; zero where nothing stands out.

        m (1 - c^2 e^2 / m^2)+, the positive part of James & Stein's estimator, as Breiman's garrote (1995) has it for each
        coordinate: c is such that of pairs which are all alike none is moved, but in DOUBT of the trials. m^2 / (m^2 + e^2)
        moves at |t| = 1 by half: over a thousand updates noise then ends on one pair (`studies/bench/evidence.py`).
        What a helpful pair is moved by ends at what the best one reaches beyond doubt: pairs whose difference is not known
        share alike.
        """
        known = self.known()
        if known is None:
            return torch.zeros_like(self._sums[0])
        mean, doubt = known.mean, known.bound * known.error
        beyond = mean * (1 - (doubt / mean).square()).clamp_min(0)
        best = (-mean - doubt).max().clamp_min(0)
        shared = beyond.clamp_min(-best)
        return torch.where(mean.abs() > doubt, shared, 0.0) / mean.square().mean().sqrt().clamp_min(torch.finfo(mean.dtype).tiny)

    def t_values(self) -> Tensor:
        """(P,): how many standard errors each pair's help stands above the average pair's; 0 while nothing is known."""
        known = self.known()
        return torch.zeros_like(self._sums[0]) if known is None else -known.mean / known.error

    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self._sums.clone(), "count": torch.tensor(self._count), "size": torch.tensor(self._size)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums, self._count, self._size = state["sums"].clone(), int(state["count"]), int(state["size"])
