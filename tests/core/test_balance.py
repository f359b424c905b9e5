"""Balanced gradients against a plain loop."""

import pytest
import torch
from torch import Tensor, nn

from kd_hpo.core.balance import AT_ONCE, GradientBalance, NoBalance, gains
from kd_hpo.core.hypergradient import squared_slopes

T, S = 3, 2


def measures(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand((), generator=generator) + 0.1, torch.rand(T, S, generator=generator) + 0.1) for _ in range(count)]


def test_matches_a_plain_loop() -> None:
    decay, balance, seen = 0.7, GradientBalance((T, S), decay=0.7, measures=1), []
    for task, pairs in measures(4):
        balance.observe(task, pairs)
        seen.append((task, pairs))
        decayed = [decay**age for age in reversed(range(len(seen)))]
        for t in range(T):
            for s in range(S):  # the ratio of two averages of squares, the newest measure with weight 1 in both
                above = sum(d * float(m[0]) for d, m in zip(decayed, seen, strict=True))
                below = sum(d * float(m[1][t, s]) for d, m in zip(decayed, seen, strict=True))
                assert float(balance.scales()[t, s]) == pytest.approx((above / below) ** 0.5, rel=1e-5)


def test_the_first_measure_makes_pairs_as_large_as_the_task() -> None:
    balance = GradientBalance((T, S), decay=0.95, measures=1)
    ((task, pairs),) = measures(1)
    balance.observe(task, pairs)
    torch.testing.assert_close(balance.scales().square() * pairs, task.expand(T, S))


def test_pairs_are_off_until_enough_measures_stand() -> None:
    balance = GradientBalance((T, S), decay=0.5, measures=3)
    for count, (task, pairs) in enumerate(measures(3)):
        assert not balance.started
        assert balance.scales().tolist() == [[0.0] * S] * T, f"after {count} measures"
        balance.observe(task, pairs)
    assert balance.started
    assert (balance.scales() > 0).all()


def test_a_pair_without_gradient_has_scale_zero() -> None:
    balance = GradientBalance((T, S), decay=0.5, measures=1)
    pairs = torch.ones(T, S)
    pairs[1, 0] = 0
    balance.observe(torch.ones(()), pairs)
    assert balance.scales().tolist() == [[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]]


def test_resumes_from_its_state() -> None:
    *first, last = measures(4)
    balance, resumed = (GradientBalance((T, S), decay=0.7, measures=4) for _ in range(2))
    for measure in first:
        balance.observe(*measure)
    resumed.load_state_dict(balance.state_dict())
    assert not resumed.scales().any()  # the count came along: one measure is missing
    for one in (balance, resumed):
        one.observe(*last)
    assert resumed.scales().all()
    assert torch.equal(resumed.scales(), balance.scales())


def test_no_balance_leaves_every_pair_its_size() -> None:
    balance = NoBalance((T, S))
    balance.load_state_dict(balance.state_dict())
    assert balance.scales().tolist() == [[1.0] * S] * T


@pytest.mark.slow
def test_squared_slopes_average_to_the_squared_norms_of_the_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    w = {
        "a": torch.randn(3, 2, generator=generator, dtype=torch.float64),
        "b": torch.randn(4, generator=generator, dtype=torch.float64),
    }

    def losses(w: dict[str, Tensor]) -> Tensor:
        return torch.stack([(w["a"] ** 3).sum(), (w["b"].square() * w["a"][0, 0]).sum(), 0 * w["b"].sum()])

    leaves = {name: value.clone().requires_grad_() for name, value in w.items()}
    norms = []
    for loss in losses(leaves):
        gradients = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True)
        norms.append(sum(float(g.square().sum()) for g in gradients))
    count = 20_000  # one has a relative deviation of the root of 2: their mean, of .01
    mean = sum(squared_slopes(losses, w, generator) for _ in range(count)) / count
    torch.testing.assert_close(mean, torch.tensor(norms, dtype=torch.float64), rtol=0.05, atol=0)


def test_what_is_not_measured_stays_as_it_was() -> None:
    balance = GradientBalance((1, 2), decay=0.5, measures=1)
    balance.observe(torch.tensor(4.0), torch.tensor([[1.0, 4.0]]))
    balance.observe(torch.tensor(4.0), torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    balance.observe(torch.tensor(1.0), torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    assert balance.scales()[0, 1] == pytest.approx((16 / 7 / 4) ** 0.5)  # the task's average goes on: (4 + 2 * 4 + 4 * 1) / 7


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_measure_that_is_not_finite_is_passed_over_and_counted(lost: float) -> None:
    balance = GradientBalance((1, 2), decay=0.5, measures=1)
    balance.observe(torch.tensor(4.0), torch.tensor([[1.0, 4.0]]))
    balance.observe(torch.tensor(4.0), torch.tensor([[1.0, lost]]))
    assert balance.scales().tolist() == [[2.0, 1.0]]
    balance.observe(torch.tensor(lost), torch.tensor([[9.0, 9.0]]))
    assert balance.scales().tolist() == [[2.0, 1.0]]
    assert balance.missed.tolist() == [[1, 2]]
    assert balance.take_missed() == 3
    assert balance.take_missed() == 0
    balance.observe(torch.tensor(4.0), torch.tensor([[1.0, 4.0]]))
    assert balance.scales().tolist() == [[2.0, 1.0]]
    assert not balance.missed.any()


def test_a_pair_whose_first_measure_is_lost_is_balanced_by_its_next_one() -> None:
    balance = GradientBalance((1, 2), decay=0.5, measures=1)
    balance.observe(torch.tensor(4.0), torch.tensor([[1.0, float("nan")]]))
    assert balance.scales().tolist() == [[2.0, 0.0]]
    assert balance.unknown.tolist() == [[False, True]]
    balance.observe(torch.tensor(4.0), torch.tensor([[1.0, 4.0]]))
    assert balance.scales().tolist() == [[2.0, 1.0]]
    assert not balance.unknown.any()


def test_many_pairs_are_measured_in_turn() -> None:
    balance = GradientBalance((5, 8), decay=0.5, measures=1)
    wanted = torch.ones(5, 8, dtype=torch.bool)
    wanted[0, 0] = False
    times = torch.zeros(5, 8)
    for number in range(6):
        turn = balance.in_turn(wanted)
        assert int(turn.sum()) == (39 if number == 0 else AT_ONCE)  # all are new, then those of longest ago
        times += turn
        balance.observe(torch.ones(()), torch.ones(5, 8), turn)
    assert not times[0, 0]
    assert times[wanted].min() >= 2
    assert times[wanted].max() <= 4


@pytest.mark.parametrize("kind", ["Adam", "NAdam", "RMSprop"])
def test_gains_are_those_of_the_root_that_the_step_divides_by(kind: str) -> None:
    """1 / (root of the mean square of the gradients + eps), times the root of the mean of that."""
    p, rest = nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Parameter(torch.ones(1, dtype=torch.float64))
    arguments = {"alpha": 0.9} if kind == "RMSprop" else {"betas": (0.8, 0.9)}
    optimizer = getattr(torch.optim, kind)([p, rest], lr=1e-9, eps=1e-3, **arguments)
    square = torch.zeros(2, dtype=torch.float64)
    for gradient in ([1.0, 2.0], [3.0, 0.5]):
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        square = 0.9 * square + 0.1 * p.grad.square()
    if kind != "RMSprop":  # which leaves its mean square biased
        square /= 1 - 0.9**2
    found = gains(optimizer, {"p": p, "rest": rest})
    torch.testing.assert_close(found["p"], square.mean().sqrt() / ((square + 0.1 * square.mean()).sqrt() + 1e-3))
    assert set(found) == {"p"}
    assert gains(torch.optim.SGD([p], lr=0.1), {"p": p}) == {}
