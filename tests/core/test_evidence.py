"""What hypergradients are evidence of: nothing where chance explains them, and the pairs that stand out where it does not."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kd_hpo.core.evidence import BLOCKS, FEWEST, Evidence
from kd_hpo.core.learned import Learned
from kd_hpo.core.simplex import SIMPLEX_UPDATES, mirror_descent, one_to_one

P = 16


def noise(updates: int, correlation: float, seed: int, helps: float = 0.0, pairs: int = P) -> Iterator[Tensor]:
    """Hypergradients of variance 1 and the lag-one correlation; the first two pairs help by so many standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    now, signal = torch.randn(pairs, generator=generator), torch.zeros(pairs)
    signal[:2] = helps
    for _ in range(updates):
        yield now - signal
        now = correlation * now + (1 - correlation**2) ** 0.5 * torch.randn(pairs, generator=generator)


def scaled(h: Tensor) -> Tensor:
    away = h - (h.sort().values[P // 2 - 1] + h.sort().values[P // 2]) / 2
    return away / away.square().mean().sqrt()


def gathered(hypergradients: Iterator[Tensor], pairs: int = P) -> Evidence:
    evidence = Evidence(pairs)
    for h in hypergradients:
        evidence.add(h)
    return evidence


def test_standard_error_of_independent_hypergradients_is_that_of_their_mean() -> None:
    known = gathered(noise(320, 0.0, 0)).known()
    assert known is not None
    expected = torch.stack([scaled(h) for h in noise(320, 0.0, 0)])
    torch.testing.assert_close(known.mean, expected.mean(0), rtol=1e-4, atol=1e-6)
    assert float(known.error.mean()) * 320**0.5 == pytest.approx(1, abs=0.15)  # the level of the middle pair adds to it


def test_standard_error_heeds_autocorrelation() -> None:
    """A mean of n with lag-one correlation r has the variance (1 + r) / (1 - r) / n: here 19 times that of independent ones."""
    errors = []
    for seed in range(4):
        known = gathered(noise(1000, 0.9, seed)).known()
        assert known is not None
        errors.append(float(known.error.mean()))
    assert sum(errors) / 4 == pytest.approx((19 / 1000) ** 0.5, rel=0.35)


@pytest.mark.parametrize(("updates", "correlation"), [(14, 0.0), (45, 0.0), (45, 0.9), (200, 0.9)])
def test_noise_moves_no_pair(updates: int, correlation: float) -> None:
    for seed in range(10):
        weighting = Learned(torch.ones(4, 4), mirror_descent, step=0.3, average=None, mix=0.01)
        for h in noise(updates, correlation, seed):
            weighting.learn(h.view(4, 4))
        assert weighting.weights(0).max() < 2 / P, seed


def test_pairs_that_help_are_found_and_share_alike_and_all_others_stay_equal() -> None:
    for seed in range(5):
        weighting = Learned(torch.ones(4, 4), mirror_descent, step=0.1, average=None, mix=0.01)
        for h in noise(100, 0.0, seed, helps=1.0):
            weighting.learn(h.view(4, 4))
        weights = weighting.weights(0).flatten()
        assert weights[:2].min() > 0.2
        assert weights[:2].max() < 1.5 * weights[:2].min()  # their difference is chance
        t = weighting.t_values()
        assert t is not None and (t.flatten()[:2] > 4).all() and t.flatten()[2:].max() < 4


def test_too_few_hypergradients_and_those_that_are_alike_say_nothing() -> None:
    few, alike = gathered(noise(FEWEST - 1, 0.0, 0, helps=9.0)), gathered(torch.full((P,), 3.0) for _ in range(50))
    for evidence in (few, alike):
        assert evidence.known() is None
        assert not evidence.direction().any() and not evidence.t_values().any()


def test_blocks_double_where_they_are_full_and_lose_nothing() -> None:
    evidence = gathered(noise(5 * BLOCKS + 3, 0.0, 0))
    told = torch.stack([scaled(h) for h in noise(5 * BLOCKS + 3, 0.0, 0)])
    torch.testing.assert_close(evidence.state_dict()["sums"].sum(0), told.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(evidence.state_dict()["sums"][1], told[8:16].sum(0), rtol=1e-4, atol=1e-5)


def test_evidence_goes_on_from_its_state_to_the_last_bit() -> None:
    hypergradients = list(noise(70, 0.5, 0, helps=2.0))
    whole, resumed = Evidence(P), Evidence(P)
    for h in hypergradients:
        whole.add(h)
        state, resumed = resumed.state_dict(), Evidence(P)
        resumed.load_state_dict(state)
        resumed.add(h)
    assert torch.equal(whole.direction(), resumed.direction()) and whole.direction().any()


@pytest.mark.parametrize("update", SIMPLEX_UPDATES)
def test_what_was_gathered_before_moves_lambda_at_its_first_update(update: str) -> None:
    *before, last = noise(60, 0.0, 0, helps=3.0)
    weighting = Learned(torch.ones(4, 4), SIMPLEX_UPDATES[update], step=0.3, average=None, mix=0.0)
    start = weighting.weights(0)
    for h in before:
        weighting.gather(h.view(4, 4))
        assert torch.equal(weighting.weights(0), start)
    weighting.learn(last.view(4, 4))
    assert weighting.weights(0).flatten()[:2].min() > 1 / P


def test_what_is_known_no_longer_is_taken_back() -> None:
    weighting = Learned(torch.ones(4, 4), mirror_descent, step=0.1, average=None, mix=0.01)
    for h in noise(50, 0.0, 0, helps=2.0):
        weighting.learn(h.view(4, 4))
    assert weighting.weights(0).max() > 2 / P
    for h in noise(50, 0.0, 1, helps=-2.0):
        weighting.learn(h.view(4, 4))
    assert weighting.weights(0).max() < 2 / P


def test_without_evidence_no_pair_is_left_out_and_with_it_those_that_look_best_stay() -> None:
    weighting = Learned(torch.ones(4, 4), mirror_descent, step=0.1, average=None, mix=0.01, matched=True, keep=3)
    for h in noise(45, 0.0, 0):
        weighting.learn(h.view(4, 4))
    torch.testing.assert_close(weighting.weights(0), torch.full((4, 4), 1 / 16))
    signal = torch.zeros(4, 4)
    signal[0, 0] = 3.0
    for h in noise(200, 0.0, 1):
        weighting.learn(h.view(4, 4) - signal)
    weights = weighting.weights(0)
    assert int((weights > 0).sum()) == 3 and weights[0, 0] == weights.max()
    torch.testing.assert_close(one_to_one(weights), weights)
