"""Back through the step of an optimiser, against the update written out and left to autograd."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop, Rprop

from kd_hpo.core.params import Params
from kd_hpo.core.updates import Cotangents, next_update, pull_back
from kd_hpo.errors import ConfigError
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
    for optimizer, words in (
        (Rprop([p], lr=0.1), "Rprop"),
        (MySGD([p], lr=0.1), "MySGD"),
        (SGD([p], lr=0.1, momentum=0.9, dampening=0.5), "dampening"),
    ):
        update = next_update(optimizer, {"p": p})
        with pytest.raises(ConfigError, match=words):
            pull_back(update, {"p": p.detach()}, {"p": torch.ones(2)}, Cotangents({"p": torch.ones(2)}, {}))


MORE: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "sgd": lambda ps: SGD(ps, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "amsgrad": lambda ps: Adam(ps, lr=0.1, amsgrad=True),
    "nadam": lambda ps: NAdam(ps, lr=0.1, weight_decay=0.1),
    "nadamw": lambda ps: NAdam(ps, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": lambda ps: RAdam(ps, lr=0.1, weight_decay=0.1),
    "adamax": lambda ps: Adamax(ps, lr=0.1, weight_decay=0.1),
    "adagrad": lambda ps: Adagrad(ps, lr=0.1, weight_decay=0.1, lr_decay=0.1, initial_accumulator_value=0.3),
    "rmsprop": lambda ps: RMSprop(ps, lr=0.1, weight_decay=0.1, alpha=0.8),
    "rmsprop_momentum": lambda ps: RMSprop(ps, lr=0.1, momentum=0.9, centered=True),
}


@pytest.mark.parametrize("clip_norm", [None, 1.5, 1e6], ids=["whole", "cut", "not_long_enough"])
@pytest.mark.parametrize("make", MORE.values(), ids=MORE)
def test_matches_central_differences_of_the_real_step(
    make: Callable[[list[nn.Parameter]], Optimizer], clip_norm: float | None
) -> None:
    """Of the step that torch takes, on a gradient of two parameters that is cut to a length before, after 0 to 7 steps."""
    p = {name: nn.Parameter(randn(seed, 4)) for seed, name in enumerate("ab")}
    optimizer = make(list(p.values()))

    def stepped(w: Params, gradient: Params, kept: dict[str, Any]) -> tuple[Params, dict[str, Params]]:
        fresh = {name: nn.Parameter(value.clone()) for name, value in w.items()}
        other = make(list(fresh.values()))
        other.load_state_dict(copy.deepcopy(kept))
        for name, parameter in fresh.items():
            parameter.grad = gradient[name].clone()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(fresh.values(), clip_norm)
        other.step()
        state = {name: other.state[parameter] for name, parameter in fresh.items()}
        return {name: parameter.detach() for name, parameter in fresh.items()}, {
            slot: {name: state[name][slot] for name in fresh} for slot in slots
        }

    for step in range(8):
        update, kept, epsilon = next_update(optimizer, p, clip_norm), optimizer.state_dict(), 1e-6
        slots = list(update.state)
        w, gradient = ({name: randn(10 * step + at, 4) for at, name in enumerate(p, start)} for start in (0, 2))
        later = Cotangents({n: randn(30 + step, 4) for n in p}, {slot: {n: randn(40 + step, 4) for n in p} for slot in slots})
        by_gradient, earlier = pull_back(update, w, gradient, later)

        def loss(w: Params, gradient: Params, kept: Any = kept, later: Cotangents = later) -> float:
            moved, state = stepped(w, gradient, kept)
            by_state = sum(float((state[slot][n] * by).sum()) for slot, of in later.state.items() for n, by in of.items())
            return by_state + sum(float((moved[n] * by).sum()) for n, by in later.w.items())

        for one, found in ((w, earlier.w), (gradient, by_gradient)):
            for name in p:
                measured = torch.zeros(4, dtype=torch.float64)
                for i in range(4):
                    ends = []
                    for sign in (1, -1):
                        moved = one[name].clone()
                        moved[i] += sign * epsilon
                        ends.append(
                            loss(
                                {**w, name: moved} if one is w else w, {**gradient, name: moved} if one is gradient else gradient
                            )
                        )
                    measured[i] = (ends[0] - ends[1]) / (2 * epsilon)
                torch.testing.assert_close(found[name], measured, rtol=1e-5, atol=1e-7)
        for name, parameter in p.items():
            parameter.data, parameter.grad = w[name].clone(), gradient[name].clone()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(p.values(), clip_norm)
        optimizer.step()
