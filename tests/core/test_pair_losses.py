"""The losses of one pair against hand-worked values and torch.distributions."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from kd_hpo.core.pair_losses import categorical_kl, entropy, gaussian_nll, inverse_softplus, softplus_variance

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


# Categorical ---------------------------------------------------------------------------------------------------------------


def test_categorical_by_hand() -> None:
    # Temperature 2 and logits (2 ln 3, 0): p_t = (3/4, 1/4). The student is flat: KL = 3/4 ln(3/2) + 1/4 ln(1/2), times 4.
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert categorical_kl(student, teacher, 2.0).tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_categorical_is_the_divergence_at_a_temperature(temperature: float) -> None:
    student, teacher = (3 * randn(B, C)).requires_grad_(), (3 * randn(B, C, seed=1)).requires_grad_()
    p_t, p_s = Categorical(logits=teacher / temperature), Categorical(logits=student / temperature)
    actual = categorical_kl(student, teacher, temperature)
    assert actual.shape == (B,)
    torch.testing.assert_close(actual, temperature**2 * kl_divergence(p_t, p_s), rtol=1e-8, atol=1e-12)
    actual.sum().backward()  # type: ignore[no-untyped-call]
    # d KL / d z_s = (p_s - p_t) / temperature, times temperature^2
    expected = temperature * (p_s.probs - p_t.probs).detach()
    torch.testing.assert_close(student.grad, expected, rtol=1e-8, atol=1e-12)
    assert teacher.grad is None


def test_categorical_of_equal_logits_is_zero_and_shifts_do_not_count() -> None:
    logits = 3 * randn(B, C)
    torch.testing.assert_close(
        categorical_kl(logits + 5, logits - 7, 4.0), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_categorical_stays_finite_for_certain_teachers() -> None:
    student = torch.tensor([[-1e3, 1e3, 0.0]], requires_grad=True)
    loss = categorical_kl(student, torch.tensor([[1e4, -1e4, 0.0]]), 1.0)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    # The teacher is sure of class 0, the student of class 1: KL = - log p_s(0) = 2000.
    torch.testing.assert_close(loss, torch.tensor([2000.0]))
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 1.0, 0.0]]))


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


# Entropy -------------------------------------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    assert float(entropy(torch.full((3, 2), 1 / 6))) == pytest.approx(math.log(6))
    assert float(entropy(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))) == 0
    # (1/2, 1/4, 1/4): 1/2 ln 2 + 2/4 ln 4 = 3/2 ln 2
    assert float(entropy(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(1.5 * math.log(2))
