"""The hypergradient of one SGD step on a quadratic, whose closed form is algebra.

    D_ts(w) = (w - c_ts)' A_ts (w - c_ts) / 2            so  dD_ts/dw = A_ts (w - c_ts)
    L_in(w) = rho |w|^2 / 2 + sum_ts lam_ts scale_ts D_ts(w)
    w'      = w - lr dL_in/dw

Every A_ts is a full matrix of its own, so the Hessian of L_in is no multiple of the identity.
"""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from kd_hpo.core.hypergradient import central_difference, hypergradient
from kd_hpo.core.params import Params

T, S, P = 3, 2, 5
RHO, LR = 0.7, 0.3


@dataclass(frozen=True)
class Quadratic:
    A: Tensor  # (T, S, P, P), symmetric and positive
    c: Tensor  # (T, S, P)
    lam: Tensor  # (T, S)
    scale: Tensor  # (T, S)
    w: Tensor  # (P,)
    goal: Tensor  # (P,)

    def pair_gradients(self, w: Tensor) -> Tensor:  # (T, S, P)
        return torch.einsum("tspq,tsq->tsp", self.A, w - self.c)

    def pair_losses(self, w: Tensor) -> Tensor:  # (T, S)
        return 0.5 * ((w - self.c) * self.pair_gradients(w)).sum(-1)

    def stepped(self, lam: Tensor) -> Tensor:  # w' (P,)
        pull = torch.einsum("ts,tsp->p", lam * self.scale, self.pair_gradients(self.w))
        return self.w - LR * (RHO * self.w + pull)


@pytest.fixture
def problem() -> Quadratic:
    rand = partial(torch.rand, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root = rand(T, S, P, P) - 0.5
    A = root @ root.mT + torch.diag(torch.linspace(0.2, 2, P, dtype=torch.float64))
    lam = rand(T, S)
    lam[1, 0] = lam[2, 1] = 0  # two pairs are off
    return Quadratic(A, rand(T, S, P), lam / lam.sum(), rand(T, S) + 0.5, rand(P), rand(P) - 2)


def split(vector: Tensor) -> dict[str, Tensor]:
    """Parameters come in named pieces: 2 and 3 of the P numbers."""
    return {"first": vector[:2], "second": vector[2:]}


def matrix(problem: Quadratic, outer_w: Tensor, direct: Tensor | None = None) -> Tensor:
    """What the library says, with q = lr dL_out/dw' (plain SGD)."""
    q = split(LR * outer_w)
    return hypergradient(lambda w: problem.pair_losses(torch.cat(list(w.values()))), split(problem.w), q, problem.scale, direct)


def test_hessian_is_no_multiple_of_the_identity(problem: Quadratic) -> None:
    hessian = RHO * torch.eye(P, dtype=torch.float64) + torch.einsum("ts,tspq->pq", problem.lam * problem.scale, problem.A)
    curvatures = torch.linalg.eigvalsh(hessian)
    assert curvatures[-1] > 1.5 * curvatures[0]
    assert hessian[0, 1:].abs().min() > 1e-3


def test_matches_closed_form(problem: Quadratic) -> None:
    # L_out = |w' - goal|^2 / 2  =>  dL_out/dlam_ts = (w' - goal)' dw'/dlam_ts = - lr scale_ts (w' - goal)' A_ts (w - c_ts)
    outer_w = problem.stepped(problem.lam) - problem.goal
    expected = torch.empty(T, S, dtype=torch.float64)
    for t in range(T):
        for s in range(S):
            expected[t, s] = -LR * problem.scale[t, s] * outer_w @ problem.A[t, s] @ (problem.w - problem.c[t, s])
    torch.testing.assert_close(matrix(problem, outer_w), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("pair", [(1, 0), (2, 1), (0, 0)], ids=str)
def test_predicts_what_switching_a_pair_on_does(problem: Quadratic, pair: tuple[int, int]) -> None:
    # w' is linear in lam, so L_out is quadratic in it and a central difference is exact, however wide. Two of these pairs
    # have weight 0: their gradient is what brings them back.
    def outer_loss(moved: float) -> Tensor:
        lam = problem.lam.clone()
        lam[pair] += moved
        return 0.5 * (problem.stepped(lam) - problem.goal).square().sum()

    expected = (outer_loss(0.5) - outer_loss(-0.5)) / 1.0
    actual = matrix(problem, problem.stepped(problem.lam) - problem.goal)[pair]
    assert abs(expected) > 1e-2
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)


def test_direct_term_is_added(problem: Quadratic) -> None:
    # The paper's outer loss holds lam as well: L_out = |w' - goal|^2 / 2 + sum_ts lam_ts D_ts(w'), so
    # dL_out/dlam_ts = D_ts(w') - lr scale_ts (w' - goal + sum_uv lam_uv A_uv (w' - c_uv))' A_ts (w - c_ts).
    w1 = problem.stepped(problem.lam)
    outer_w = w1 - problem.goal + torch.einsum("ts,tsp->p", problem.lam, problem.pair_gradients(w1))
    direct = problem.pair_losses(w1)
    expected = direct - LR * problem.scale * (problem.pair_gradients(problem.w) @ outer_w)
    torch.testing.assert_close(matrix(problem, outer_w, direct), expected, rtol=1e-8, atol=1e-12)

    lam = problem.lam.clone().requires_grad_()  # the same through autograd, which knows no formula
    w1 = problem.stepped(lam)
    loss = 0.5 * (w1 - problem.goal).square().sum() + (lam * problem.pair_losses(w1)).sum()
    (by_autograd,) = torch.autograd.grad(loss, lam)
    torch.testing.assert_close(expected, by_autograd, rtol=1e-8, atol=1e-12)


def test_scale_may_be_one_number(problem: Quadratic) -> None:
    w, q = {"w": problem.w}, {"w": problem.goal}
    one = hypergradient(lambda w: problem.pair_losses(w["w"]), w, q, 1.0)
    three = hypergradient(lambda w: problem.pair_losses(w["w"]), w, q, 3.0)
    torch.testing.assert_close(three, 3 * one, rtol=1e-8, atol=1e-12)
    # J q = the gradients of the pair losses along q
    torch.testing.assert_close(one, -problem.pair_gradients(problem.w) @ problem.goal, rtol=1e-8, atol=1e-12)


def test_agrees_with_central_difference(problem: Quadratic) -> None:
    # A smooth D that is not quadratic: the difference has an error of its own, of order epsilon^2.
    def pair_losses(w: dict[str, Tensor]) -> Tensor:
        return (problem.pair_losses(torch.cat(list(w.values()))) / 3).tanh().exp()

    w, q = split(problem.w), split(problem.goal)
    expected = central_difference(pair_losses, w, q, problem.scale, epsilon=1e-5)
    torch.testing.assert_close(hypergradient(pair_losses, w, q, problem.scale), expected, rtol=1e-8, atol=1e-8)


def test_runs_without_a_graph(problem: Quadratic) -> None:
    w, q = {"w": problem.w.clone().requires_grad_()}, {"w": problem.goal}
    with torch.no_grad():
        result = hypergradient(lambda w: problem.pair_losses(w["w"]), w, q, problem.scale)
    assert not result.requires_grad
    torch.testing.assert_close(result, -problem.scale * (problem.pair_gradients(problem.w) @ problem.goal), rtol=1e-8, atol=1e-12)


def test_dropout_draws_the_same_mask_as_in_the_step() -> None:
    """Of an input that is not contiguous, as a channels-last map is: torch.func.jvp draws another one there."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 6, 6, 3, generator=generator, dtype=torch.float64).permute(0, 3, 1, 2)
    w, q = ({"w": torch.rand(3, 1, 1, generator=generator, dtype=torch.float64)} for _ in range(2))

    def pair_losses(w: Params) -> Tensor:
        torch.manual_seed(3)
        return torch.nn.functional.dropout(x * w["w"], 0.5).square().sum((0, 2, 3)).reshape(1, 3)

    exact = hypergradient(pair_losses, w, q, 1.0)
    torch.testing.assert_close(exact, central_difference(pair_losses, w, q, 1.0), rtol=1e-8, atol=1e-8)
