"""The means by second moments against the plain formulas that they stand for, value and every gradient."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.gaussian_means import gaussian_means
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.regressions import gaussian_nll

B, N, C_IN, CHANNELS = 3, 4, 5, (2, 1, 3)
C = sum(CHANNELS)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHARES = torch.block_diag(*(torch.full((c, 1), 1 / c, dtype=torch.float64) for c in CHANNELS))
SCALES = {"a_channel": randn(C, seed=5), "zero": torch.zeros(C).double()}
ROWS = {"rows": randn(B, N, C_IN), "channels_first": randn(B, C_IN, N).transpose(1, 2), "far": 50 + randn(B, N, C_IN)}
TARGETS = {"rows": randn(B, N, C, seed=4), "part_of_a_block": randn(B, N, C + 2, seed=4)[..., 1:-1]}


def plain(inputs: list[Tensor], target: Tensor, scale: Tensor) -> Tensor:
    x, weight, bias, variance = inputs
    return gaussian_nll(scaled_linear(x, weight, bias, scale), target, variance).mean(0) @ SHARES.to(x)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_equals_the_plain_formulas(x: Tensor, scale: Tensor, target: Tensor) -> None:
    inputs = [x, randn(C, C_IN, seed=1), randn(C, seed=2), randn(C, seed=3).square() + 0.1]
    inputs = [v.clone().requires_grad_() for v in inputs]
    actual, expected = gaussian_means(*inputs, target, SHARES, scale), plain(inputs, target, scale)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    upstream = randn(len(CHANNELS), seed=7)  # every pair counts differently
    got = torch.autograd.grad(actual, inputs, upstream)
    for g, wanted in zip(got, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-8, atol=1e-10)


def test_at_scale_one_passes_gradcheck() -> None:
    target, one = randn(B, N, C, seed=4), torch.ones(C, dtype=torch.float64)
    inputs = (randn(B, N, C_IN), randn(C, C_IN, seed=1), randn(C, seed=2), randn(C, seed=3).square() + 0.5)
    inputs = tuple(v.requires_grad_() for v in inputs)
    assert torch.autograd.gradcheck(lambda *xs: gaussian_means(*xs, target, SHARES, one), inputs, check_forward_ad=True)


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_single_precision_keeps_its_digits_where_prediction_is_good(mean: float) -> None:
    """Moments of features far from 0, and errors much smaller than the targets: what a difference of squares would lose."""
    rows, target = mean + randn(64, 49, C_IN), randn(64, 49, C, seed=4)
    weight = torch.linalg.lstsq((rows - mean).flatten(0, 1), target.flatten(0, 1)).solution.t().contiguous()
    target = rows @ weight.t() + 0.03 * target  # an error of a thousandth of the variance
    found = []
    for dtype in (torch.float32, torch.float64):
        inputs = [rows, weight + 0.01, torch.zeros(C).double(), torch.full((C,), 0.01).double()]
        inputs = [v.to(dtype).requires_grad_() for v in inputs]
        value = gaussian_means(*inputs, target.to(dtype), SHARES.to(dtype), torch.ones(C, dtype=dtype))
        found.append([value.detach(), *torch.autograd.grad(value.sum(), inputs)])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-2, atol=2e-3 * float(double.abs().max()))
