"""The Gaussian bound: its formula against values by hand and torch.distributions, its variance, its start."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from kd_hpo.core.gaussian.formula import gaussian_nll, inverse_softplus, softplus_variance, uniform_weight

B, N, C = 3, 4, 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Gaussian ------------------------------------------------------------------------------------------------------------------


def test_gaussian_by_hand() -> None:
    # One example, two positions, one channel, variance 2: squares 4 and 0, so (4/2 + ln 2)/2 and (0 + ln 2)/2 on average.
    mean, target = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[3.0], [3.0]]])
    expected = (0.5 * (2 + math.log(2)) + 0.5 * math.log(2)) / 2
    assert gaussian_nll(mean, target, torch.tensor([2.0])).tolist() == [[pytest.approx(expected)]]


def test_gaussian_is_the_log_density_up_to_its_constant() -> None:
    mean, target, variance = randn(B, N, C), randn(B, N, C, seed=1), randn(C, seed=2).square() + 0.1
    density = Normal(mean, variance.sqrt()).log_prob(target)  # contains - log(2 pi) / 2
    expected = -(density + 0.5 * math.log(2 * math.pi)).mean(1)
    actual = gaussian_nll(mean, target, variance)
    assert actual.shape == (B, C)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)


def test_gaussian_gradients() -> None:
    mean, target, variance = randn(B, N, C).requires_grad_(), randn(B, N, C, seed=1).requires_grad_(), randn(C).square() + 0.1
    variance.requires_grad_()
    gaussian_nll(mean, target, variance).sum().backward()  # type: ignore[no-untyped-call]
    error = (mean - target).detach()
    # d/dmean = error / variance, over N positions; d/dvariance = (1 / v - error^2 / v^2) / 2; the teacher gets none.
    torch.testing.assert_close(mean.grad, error / variance.detach() / N, rtol=1e-8, atol=1e-12)
    by_variance = 0.5 * (1 / variance.detach() - error.square().mean(1) / variance.detach().square()).sum(0)
    torch.testing.assert_close(variance.grad, by_variance, rtol=1e-8, atol=1e-12)
    assert target.grad is None


def test_gaussian_is_least_where_the_variance_is_the_error() -> None:
    # d/dv = 0 at v = mean squared error: the value is then (1 + ln v) / 2.
    mean, target = randn(1, N, 1), randn(1, N, 1, seed=1)
    best = (mean - target).square().mean()
    torch.testing.assert_close(gaussian_nll(mean, target, best[None])[0, 0], 0.5 * (1 + best.log()), rtol=1e-8, atol=1e-12)
    for factor in (0.5, 2.0):
        assert gaussian_nll(mean, target, factor * best[None]) > gaussian_nll(mean, target, best[None])


# Variance ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_softplus_does_not_overflow(dtype: torch.dtype) -> None:
    # log(1 + exp(rho)) is infinite in float16 from rho = 12 on; softplus(rho) is rho there.
    rho = torch.tensor([12.0, 100.0, 1000.0, 60000.0], dtype=dtype, requires_grad=True)
    variance = softplus_variance(rho, 1e-3)
    variance.sum(dtype=torch.float32).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(variance, rho, rtol=1e-2, atol=0)
    torch.testing.assert_close(rho.grad, torch.ones_like(rho), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_variance_ends_at_its_floor(dtype: torch.dtype) -> None:
    variance = softplus_variance(torch.tensor([-1000.0, -30.0], dtype=dtype), 1e-3)
    torch.testing.assert_close(variance, torch.full_like(variance, 1e-3), rtol=1e-2, atol=0)


@pytest.mark.parametrize("value", [1e-12, 1e-6, 1e-3, 0.5, math.log(2), 1.0, 5.0, 40.0, 1e4])
def test_inverse_softplus(value: float) -> None:
    rho = inverse_softplus(value)
    # log(1 + exp(rho)), written so that neither end loses its digits
    assert max(rho, 0.0) + math.log1p(math.exp(-abs(rho))) == pytest.approx(value, rel=1e-8, abs=0)


def test_softplus_of_zero_is_log_two() -> None:
    assert inverse_softplus(math.log(2)) == pytest.approx(0.0, abs=1e-12)
    assert float(softplus_variance(torch.zeros((), dtype=torch.float64), 0.25)) == pytest.approx(math.log(2) + 0.25)


# Direction -----------------------------------------------------------------------------------------------------------------


def best_gaussian_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Over all linear regressors and variances: least squares from student to teacher, and its mean squared errors.

    The bias takes the means, and the pseudoinverse the rest: it is defined for a student of zeros too, where the drivers of
    torch.linalg.lstsq differ between builds (gels wants full rank, gelsy judges the rank by its build's LAPACK).
    """
    x, y = (feature.flatten(0, 1) - feature.mean((0, 1)) for feature in (student, teacher))
    slope = torch.linalg.pinv(x, rtol=1e-10) @ y  # singular values below that share of the largest are none
    mean = (x @ slope + teacher.mean((0, 1))).view_as(teacher)
    return gaussian_nll(mean, teacher, (mean - teacher).square().mean((0, 1)) + 1e-12).mean()


def test_a_student_gains_nothing_by_collapsing() -> None:
    """A known fault elsewhere: q(h_s | h_t), whose loss falls without bound as the student's features shrink."""
    teacher = randn(40, N, C)
    student = teacher[..., :2] + 0.3 * randn(40, N, 2, seed=1)
    best = best_gaussian_loss(student, teacher)
    torch.testing.assert_close(best_gaussian_loss(1e-3 * student, teacher), best, rtol=1e-6, atol=0)
    # Without the student, the mean and the variance of each channel are left.
    alone = 0.5 * (1 + teacher.flatten(0, 1).var(0, correction=0).log()).mean()
    torch.testing.assert_close(best_gaussian_loss(torch.zeros_like(student), teacher), alone, rtol=1e-8, atol=0)
    assert best < alone - 0.1


# Start ---------------------------------------------------------------------------------------------------------------------


def test_weights_start_as_those_of_a_linear_layer_do() -> None:
    # Uniform within 1 / sqrt(fan_in): the variance is a third of the bound's square.
    weight = uniform_weight(400, 25, torch.Generator().manual_seed(0))
    assert weight.shape == (400, 25) and float(weight.detach().abs().max()) <= 1 / 5
    assert float(weight.detach().var()) == pytest.approx(1 / 75, rel=0.05)
    assert torch.equal(weight, uniform_weight(400, 25, torch.Generator().manual_seed(0)))
