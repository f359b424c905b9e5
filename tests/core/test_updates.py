"""Back through the step of an optimiser, against the update written out and left to autograd."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, RMSprop

from kd_hpo.core.updates import Cotangents, next_update, pull_back
from tests.core.bilevel import CASES, Case


def randn(seed: int, size: int = 7) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_autograd_through_the_update_and_its_state(case: Case) -> None:
    p = nn.Parameter(randn(0))
    optimizer = case.optimizer([p])
    for step in range(5):
        update = next_update(optimizer, {"p": p})
        w, g = p.detach().clone().requires_grad_(), randn(10 + step).requires_grad_()
        kept = {k: v.clone() for k, v in optimizer.state[p].items() if v is not None}
        slots = [k for k in kept if k != "step"]
        for slot in slots:
            kept[slot].requires_grad_()
        stepped, state = case.update(w, g, kept)
        later = Cotangents({"p": randn(20 + step)}, {k: {"p": randn(30 + step)} for k in state if k != "step"})
        loss = (stepped * later.w["p"]).sum() + sum((state[k] * by["p"]).sum() for k, by in later.state.items())
        expected = torch.autograd.grad(loss, [g, w, *(kept[slot] for slot in slots)], allow_unused=True, materialize_grads=True)
        by_gradient, earlier = pull_back(update, {"p": w.detach()}, {"p": g.detach()}, later)
        actual = [by_gradient["p"], earlier.w["p"], *(earlier.state[slot]["p"] for slot in slots)]
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)
        p.grad = g.detach().clone()
        optimizer.step()
        torch.testing.assert_close(p.detach(), stepped.detach(), rtol=1e-9, atol=1e-12)  # the judge knows the optimiser


def by_gradient(optimizer: SGD | Adam, p: nn.Parameter, gradient: Tensor) -> list[float]:
    update = next_update(optimizer, {"p": p})
    found, _ = pull_back(update, {"p": p.detach()}, {"p": gradient}, Cotangents({"p": torch.ones_like(p)}, {}))
    return found["p"].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("nesterov", "expected"), [(False, -0.1), (True, -0.1 * 1.9)])  # lr, and lr (1 + momentum)
def test_momentum_leaves_one_step_as_it_is_and_nesterov_multiplies_it(nesterov: bool, expected: float) -> None:
    p = nn.Parameter(randn(0))
    optimizer = SGD([p], lr=0.1, momentum=0.9, nesterov=nesterov)
    for seed in range(3):
        assert by_gradient(optimizer, p, randn(seed)) == pytest.approx([expected] * 7, rel=1e-12)
        p.grad = randn(seed)
        optimizer.step()


def test_each_group_of_the_optimiser_is_read_as_it_is_now() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.25)
    update = next_update(optimizer, {"b": b, "a": a})
    optimizer.param_groups[0]["lr"] = 7.0  # a schedule, after the step
    ones = {"a": torch.ones(2), "b": torch.ones(2)}
    found, _ = pull_back(update, ones, ones, Cotangents(ones, {}))
    assert found["a"].tolist() == [-0.5, -0.5]
    assert found["b"].tolist() == [-0.25, -0.25]


def test_adam_where_the_gradient_has_always_been_zero() -> None:
    # First step, g = 0: w' = w - lr g / (|g| + eps), whose slope at 0 is - lr / eps. Finite, where sqrt has none.
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    gradient = torch.tensor([0.0, 1.0], dtype=torch.float64)
    # At g = 1: d/dg g / (g + eps) = eps / (1 + eps)^2.
    expected = [-10.0, -1e-3 * 1e-4 / (1 + 1e-4) ** 2]
    assert by_gradient(Adam([p], lr=1e-3, eps=1e-4), p, gradient) == pytest.approx(expected, rel=1e-8)


def test_nothing_of_the_optimiser_is_moved() -> None:
    p = nn.Parameter(randn(0))
    optimizer = Adam([p], lr=0.1)
    p.grad = randn(1)
    optimizer.step()
    update = next_update(optimizer, {"p": p})
    before = p.detach().clone(), {k: v.clone() for k, v in optimizer.state[p].items()}, update.state["exp_avg"]["p"].clone()
    pull_back(update, {"p": p.detach()}, {"p": randn(2)}, Cotangents({"p": randn(3)}, {}))
    assert torch.equal(p, before[0])
    assert all(torch.equal(optimizer.state[p][k], v) for k, v in before[1].items())
    assert torch.equal(update.state["exp_avg"]["p"], before[2])


def test_unknown_optimiser_is_refused() -> None:
    class MySGD(SGD):
        """A subclass may take another step than its parent."""

    p = nn.Parameter(torch.ones(2))
    for kind in (RMSprop, MySGD):
        with pytest.raises(TypeError, match=kind.__name__):
            next_update(kind([p], lr=0.1), {"p": p})
    with pytest.raises(TypeError, match="dampening"):
        next_update(SGD([p], lr=0.1, momentum=0.9, dampening=0.5), {"p": p})
