"""The fused loss against the plain formulas that it stands for, value and every gradient."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.fused_gaussian import fused_gaussian
from kd_hpo.core.gradient_scaling import scaled_linear
from kd_hpo.core.regressions import gaussian_nll

B, N, C_IN, CHANNELS = 3, 4, 5, (2, 1, 3)
C = sum(CHANNELS)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHARES = torch.block_diag(*(torch.full((c, 1), 1 / c, dtype=torch.float64) for c in CHANNELS))
SCALES = {"a_channel": randn(C, seed=5), "an_example_and_channel": randn(B, C, seed=6), "zero": torch.zeros(C).double()}
ROWS = {"rows": randn(B, N, C_IN), "channels_first": randn(B, C_IN, N).transpose(1, 2)}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_equals_the_plain_formulas(x: Tensor, scale: Tensor) -> None:
    target = randn(B, N, C, seed=4)
    inputs = [x, randn(C, C_IN, seed=1), randn(C, seed=2), randn(C, seed=3).square() + 0.1]
    x, weight, bias, variance = inputs = [v.clone().requires_grad_() for v in inputs]
    actual = fused_gaussian(x, weight, bias, variance, target, SHARES, scale)
    predicted = scaled_linear(x, weight, bias, scale if scale.dim() == 1 else scale.unsqueeze(1))
    expected = gaussian_nll(predicted, target, variance) @ SHARES
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    upstream = randn(B, len(CHANNELS), seed=7)  # every example and pair counts differently
    got = torch.autograd.grad(actual, inputs, upstream)
    for g, wanted in zip(got, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-8, atol=1e-12)


def test_at_scale_one_passes_gradcheck() -> None:
    target, one = randn(B, N, C, seed=4), torch.ones(C, dtype=torch.float64)
    inputs = (randn(B, N, C_IN), randn(C, C_IN, seed=1), randn(C, seed=2), randn(C, seed=3).square() + 0.5)
    inputs = tuple(v.requires_grad_() for v in inputs)
    assert torch.autograd.gradcheck(lambda *xs: fused_gaussian(*xs, target, SHARES, one), inputs, check_forward_ad=True)
