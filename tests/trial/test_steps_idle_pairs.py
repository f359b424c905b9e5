"""Pairs that a step leaves out: their regressors, variances and what the optimiser knows of them stay as they are."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.gaussian.regressors import LinearGaussian
from kd_hpo.data.batches import shuffled_batches
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.problem import PairState
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

SLOTS = ("exp_avg", "exp_avg_sq", "counts")


def numbers(pairs: PairState, t: int, s: int) -> list[Tensor]:
    """Weight, bias and rho of a pair, and its moments and counts of steps."""
    losses = pairs.losses.feature_pairs
    assert isinstance(losses, LinearGaussian)
    found = [part.clone() for part in losses.of_pair(t, s)]
    kept = {p: p.detach().clone() for p in losses.parameters()}
    for slot in SLOTS:
        with torch.no_grad():
            for p in losses.parameters():
                state = pairs.optimizer.state[p]
                p.copy_(state.get(slot, torch.full_like(p, float(state["step"]))))
            found += [part.clone() for part in losses.of_pair(t, s)]
            for p, value in kept.items():
                p.copy_(value)
    return found


@pytest.mark.parametrize("variance", ["learned", "fixed"])
def test_what_a_step_leaves_out_stays_exactly_where_it_was(prepared: Prepared, variance: str) -> None:
    config = digits_trial(
        weighting={"kind": "learned", "every": 1, "warmup": 0.0, "hold": 0.75, "keep": 1, "outer_batch": 32, "evidence": False},
        pairs={"loss": {"kind": "gaussian", "variance": {"kind": variance}}, "balance": {"kind": "none"}},
    )
    trial = start_trial(config, prepared)
    pairs = trial.pairs
    assert pairs is not None
    T, S = pairs.losses.plan.shape
    for batch in shuffled_batches(prepared.splits.train, 32, 0):
        train_step(trial, batch)
    assert trial.schedule.at(trial.step).weighted_only
    ((kept_t, kept_s),) = pairs.weighting.weights(0).nonzero().tolist()
    for batch in list(shuffled_batches(prepared.splits.train, 32, 1))[:3]:
        before = {(t, s): numbers(pairs, t, s) for t in range(T) for s in range(S)}
        train_step(trial, batch)
        for (t, s), was in before.items():
            same = [torch.equal(a, b) for a, b in zip(was, numbers(pairs, t, s), strict=True)]
            if (t, s) == (kept_t, kept_s):
                assert not any(same[:2]), "weight and bias of the pair that has weight"
            else:
                assert all(same), f"pair {t} -> {s}: {same}"
