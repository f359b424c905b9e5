"""Learned weights against a plain loop."""

import math

import pytest
import torch
from torch import Tensor

from kd_hpo.core.learned import Learned
from kd_hpo.core.simplex import SIMPLEX_UPDATES, mirror_descent, normalised_direction, one_to_one

T, S = 3, 2


def hypergradients(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(T, S, generator=generator, dtype=torch.float64) for _ in range(count)]


def learned(update: str = "mirror_descent", step: float = 0.3, average: float = 0.8, mix: float = 0.05) -> Learned:
    weighting = Learned(torch.ones(T, S), SIMPLEX_UPDATES[update], step=step, average=average, mix=mix)
    weighting.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in weighting.state_dict().items()})
    # it starts in single precision: 1/6 anew
    weighting.load_state_dict(weighting.state_dict() | {"weights": torch.full((T * S,), 1 / 6, dtype=torch.float64)})
    return weighting


def test_learned_starts_uniform() -> None:
    weighting = Learned(torch.ones(T, S), mirror_descent, step=0.1, average=0.9, mix=0.01)
    torch.testing.assert_close(weighting.weights(0), torch.full((T, S), 1 / 6))


def test_learned_matches_a_plain_loop() -> None:
    step, average, mix, n = 0.3, 0.8, 0.05, T * S
    weighting = learned()
    w, seen = [1 / n] * n, []
    for hypergradient in hypergradients(5):
        weighting.learn(hypergradient)
        seen.append(hypergradient.flatten().tolist())
        # The average of all so far, the newest with weight 1, the one before with 0.8, and so on.
        decayed = [average**age for age in reversed(range(len(seen)))]
        h = [sum(d * g[i] for d, g in zip(decayed, seen, strict=True)) / sum(decayed) for i in range(n)]
        level = sum(w[i] * h[i] for i in range(n))
        rms = math.sqrt(sum((x - level) ** 2 for x in h) / n)
        w = [w[i] * math.exp(-step * (h[i] - level) / rms) for i in range(n)]
        total = sum(w)
        w = [(1 - mix) * x / total + mix / n for x in w]
        torch.testing.assert_close(weighting.weights(0).flatten(), torch.tensor(w, dtype=torch.float64), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("update", SIMPLEX_UPDATES)
def test_learned_keeps_every_pair_alive(update: str) -> None:
    weighting, h = learned(update, step=5.0, mix=0.06), hypergradients(1)[0]
    for _ in range(20):
        weighting.learn(h)
    weights = weighting.weights(0)
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights.min()) >= 0.06 / 6 - 1e-12  # its share of the uniform point
    assert int(weights.argmax()) == int(h.argmin())


def test_learned_does_not_move_without_evidence() -> None:
    weighting = learned()
    weighting.learn(torch.full((T, S), 7.0))
    torch.testing.assert_close(weighting.weights(0), torch.full((T, S), 1 / 6, dtype=torch.float64), rtol=1e-8, atol=1e-12)


def test_learned_resumes_from_its_state() -> None:
    *first, last = hypergradients(4)
    weighting = learned()
    for h in first:
        weighting.learn(h)
    resumed = learned()
    resumed.load_state_dict(weighting.state_dict())
    assert torch.equal(resumed.weights(0), weighting.weights(0))
    for one in (weighting, resumed):
        one.learn(last)
    assert torch.equal(resumed.weights(0), weighting.weights(0))


def test_weights_handed_out_do_not_change_later() -> None:
    weighting = learned()
    handed = weighting.weights(0)
    kept = handed.clone()
    weighting.learn(hypergradients(1)[0])
    assert torch.equal(handed, kept)
    assert not torch.equal(weighting.weights(0), kept)


@pytest.mark.parametrize("update", SIMPLEX_UPDATES)
def test_learning_over_served_pairs_is_learning_without_the_others(update: str) -> None:
    served = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    some = Learned(served, SIMPLEX_UPDATES[update], step=0.1, average=0.5, mix=0.01)
    alone = Learned(torch.ones(3, 1), SIMPLEX_UPDATES[update], step=0.1, average=0.5, mix=0.01)
    h = torch.tensor([[0.5, 0], [1.0, 0], [0, 1.5]])
    for _ in range(20):
        some.learn(h)
        alone.learn(h[served > 0].unsqueeze(1))
    torch.testing.assert_close(some.weights(0)[served > 0], alone.weights(0).flatten())
    assert (some.weights(0)[served == 0] == 0).all()


def test_forgetting_weights_settle_where_step_over_forget_says() -> None:
    h = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])  # centred, of RMS 1, at any of the weights it leads to
    weighting = Learned(torch.ones(T, S), mirror_descent, step=0.1, average=0.0, mix=0.0, forget=0.1)
    for _ in range(200):
        weighting.learn(h)
    weights = weighting.weights(0)
    direction = normalised_direction(h, weights)
    torch.testing.assert_close(weights, torch.softmax(-direction.flatten(), 0).view(T, S), rtol=1e-5, atol=1e-7)


def test_a_matched_weighting_starts_with_all_pairs_and_then_keeps_an_assignment_which_may_change() -> None:
    def make(matched: bool) -> Learned:
        return Learned(torch.ones(2, 2), mirror_descent, step=1.0, average=0.0, mix=0.01, matched=matched)

    weighting, free = make(True), make(False)
    assert weighting.weights(0).tolist() == [[0.25, 0.25], [0.25, 0.25]]
    crossed = torch.tensor([[1.0, -1.0], [-1.5, 1.0]])
    for h, kept in ((crossed, [[0, 1], [1, 0]]), (-crossed, None), (-crossed, [[1, 0], [0, 1]])):
        weighting.learn(h)
        free.learn(h)
        torch.testing.assert_close(weighting.weights(0), one_to_one(free.weights(0)))
        assert kept is None or (weighting.weights(0) > 0).int().tolist() == kept


def test_kept_pairs_are_the_strongest_of_the_assignment() -> None:
    def make(keep: int | None) -> Learned:
        return Learned(torch.ones(3, 3), mirror_descent, step=0.5, average=0.0, mix=0.01, matched=True, keep=keep)

    two, all_three = make(2), make(None)
    h = torch.tensor([[-1.0, 3, 3], [3, -3.0, 3], [3, -2.9, -2.0]])
    for weighting in (two, all_three):
        weighting.learn(h)
    weights = all_three.weights(0)
    assert (weights > 0).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    weights[0, 0] = 0  # the weakest
    torch.testing.assert_close(two.weights(0), weights / weights.sum())


def test_weights_start_where_an_earlier_trial_ended_and_forget_towards_it() -> None:
    start = torch.tensor([[0.0, 0, 1], [0, 3, 0]])

    def make(**given: object) -> Learned:
        return Learned(torch.ones(2, 3), mirror_descent, step=0.2, average=0.0, mix=0.0, forget=0.5, start=start, **given)  # type: ignore[arg-type]

    weighting, matched = make(), make(matched=True, keep=2)
    opened = 0.9 * start / 4 + 0.1 / 6  # a tenth of the uniform point: any pair may come in
    torch.testing.assert_close(weighting.weights(0), opened)
    torch.testing.assert_close(matched.weights(0), one_to_one(opened))  # from the first step on
    h = torch.tensor([[1.0, -1, 1], [-1, 1, -1]])
    for _ in range(100):
        weighting.learn(h)
    direction = normalised_direction(h, weighting.weights(0))
    settled = torch.softmax((opened.log() - 0.2 / 0.5 * direction).flatten(), 0).view(2, 3)
    torch.testing.assert_close(weighting.weights(0), settled, rtol=1e-4, atol=1e-6)


def total_learned(*hypergradients: Tensor, within: float = 4.0, resume: bool = False) -> Learned:
    def make() -> Learned:
        return Learned(torch.ones(2, 2), mirror_descent, step=0.1, average=0.5, mix=0.0, within=within)

    weighting = make()
    for h in hypergradients:
        if resume:
            state, weighting = weighting.state_dict(), make()
            weighting.load_state_dict(state)
        weighting.learn(h)
    return weighting


HARMFUL = torch.tensor([[1.0, 2.0], [3.0, 2.0]])  # more of every pair makes the outer loss larger


def test_the_total_follows_its_own_hypergradient() -> None:
    # The first average is half the slope, and its square's half the square: their ratio is the root of one half.
    assert total_learned(HARMFUL).total(0) == pytest.approx(math.exp(-0.1 * math.sqrt(0.5)), rel=1e-6)
    assert total_learned(-HARMFUL).total(0) == pytest.approx(math.exp(0.1 * math.sqrt(0.5)), rel=1e-6)
    assert total_learned(HARMFUL, -5 * HARMFUL).total(0) > total_learned(HARMFUL).total(0)  # the mean of both has turned
    assert total_learned(torch.tensor([[1.0, -1.0], [-1.0, 1.0]])).total(0) == 1  # they weigh each other out


def test_the_total_keeps_its_bounds_and_stands_still_without_any() -> None:
    assert total_learned(*[HARMFUL] * 99).total(0) == pytest.approx(0.25, rel=1e-5)
    assert total_learned(*[-HARMFUL] * 99).total(0) == pytest.approx(4, rel=1e-5)
    assert total_learned(*[HARMFUL] * 9, within=1.0).total(0) == 1


def test_the_total_resumes_from_its_state() -> None:
    told = (HARMFUL, -HARMFUL, HARMFUL.t() / 3)
    assert total_learned(*told, resume=True).total(0) == total_learned(*told).total(0)


def test_total_moves_by_what_lambda_does_through_the_student_alone() -> None:
    """L_out(w(total * lambda)) + <lambda, D>: its derivative in log total is <lambda, h>, without D, which moves lambda too."""
    h, direct = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[-9.0, -9.0], [-9.0, 9.0]])
    both, alone = (Learned(torch.ones(2, 2), mirror_descent, step=0.1, average=0.0, mix=0.0, within=4.0) for _ in range(2))
    both.learn(h, direct)
    alone.learn(h)
    assert both.total(0) == alone.total(0) < 1  # <lambda, h> = 1 > 0: less of the pairs is better
    whole = Learned(torch.ones(2, 2), mirror_descent, step=0.1, average=0.0, mix=0.0)
    whole.learn(h + direct)
    assert torch.equal(both.weights(0), whole.weights(0))
