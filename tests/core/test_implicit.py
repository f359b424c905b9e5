"""H^-1 g against a closed form whose Hessian is no multiple of the identity, and against what each method promises."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.implicit import conjugate_gradient, neumann
from kd_hpo.core.params import Params

SHAPES = {"a": (3, 2), "b": (4,)}
SIZE = 10


def vector(flat: Tensor) -> Params:
    parts = flat.split([6, 4])
    return {name: part.view(shape) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)}


def flat(v: Params) -> Tensor:
    return torch.cat([v[name].flatten() for name in SHAPES])


class Quadratic:
    """H with the given eigenvalues in a random basis, and a random g."""

    def __init__(self, eigenvalues: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
        self.H = basis @ eigenvalues.diag() @ basis.t()
        self.g = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        self.numbers: list[int] = []

    def product(self, v: Params, number: int) -> Params:
        self.numbers.append(number)
        return vector(self.H @ flat(v))


POSITIVE = torch.linspace(0.3, 5.0, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("damping", [0.0, 0.1, 2.0])
def test_conjugate_gradient_solves_in_as_many_iterations_as_dimensions(damping: float) -> None:
    problem = Quadratic(POSITIVE)
    q, residual = conjugate_gradient(problem.product, vector(problem.g), damping=damping, iterations=SIZE)
    expected = torch.linalg.solve(problem.H + damping * torch.eye(SIZE, dtype=torch.float64), problem.g)
    torch.testing.assert_close(flat(q), expected, rtol=1e-8, atol=1e-12)
    assert residual < 1e-8
    assert set(problem.numbers) == {0}  # all on one batch


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_conjugate_gradient_is_the_best_of_its_krylov_space(iterations: int) -> None:
    problem, damping = Quadratic(POSITIVE), 0.1
    A = problem.H + damping * torch.eye(SIZE, dtype=torch.float64)
    q, residual = conjugate_gradient(problem.product, vector(problem.g), damping=damping, iterations=iterations)
    krylov = torch.stack([torch.linalg.matrix_power(A, k) @ problem.g for k in range(iterations)], 1)
    best = krylov @ torch.linalg.solve(krylov.t() @ A @ krylov, krylov.t() @ problem.g)
    torch.testing.assert_close(flat(q), best, rtol=1e-8, atol=1e-12)
    assert residual == pytest.approx(float((problem.g - A @ flat(q)).norm() / problem.g.norm()), rel=1e-8)


def test_conjugate_gradient_stops_where_the_curvature_is_not_positive() -> None:
    problem = Quadratic(torch.full((SIZE,), -1.0, dtype=torch.float64))
    q, residual = conjugate_gradient(problem.product, vector(problem.g), damping=0.5, iterations=5)
    assert not flat(q).any()
    assert residual == 1.0
    assert len(problem.numbers) == 1


def test_nothing_is_solved_by_nothing() -> None:
    zero = vector(torch.zeros(SIZE, dtype=torch.float64))
    for q, residual in (
        conjugate_gradient(Quadratic(POSITIVE).product, zero, damping=0.1, iterations=3),
        neumann(Quadratic(POSITIVE).product, zero, terms=3, step=0.1),
    ):
        assert not flat(q).any()
        assert residual == 0.0


@pytest.mark.parametrize("terms", [1, 2, 7])
def test_neumann_is_its_series(terms: int) -> None:
    problem, step = Quadratic(POSITIVE), 0.1
    q, residual = neumann(problem.product, vector(problem.g), terms=terms, step=step)
    factor = torch.eye(SIZE, dtype=torch.float64) - step * problem.H
    expected = sum(step * torch.linalg.matrix_power(factor, k) @ problem.g for k in range(terms))
    torch.testing.assert_close(flat(q), expected, rtol=1e-8, atol=1e-12)
    assert residual == pytest.approx(float((problem.g - problem.H @ flat(q)).norm() / problem.g.norm()), rel=1e-8)
    assert problem.numbers == list(range(terms))  # a fresh batch a term


def test_neumann_nears_the_inverse() -> None:
    problem = Quadratic(POSITIVE)
    q, residual = neumann(problem.product, vector(problem.g), terms=1000, step=0.3)
    torch.testing.assert_close(flat(q), torch.linalg.solve(problem.H, problem.g), rtol=1e-8, atol=1e-12)
    assert residual < 1e-8
