"""The means by second moments against the plain formulas that they stand for, value and every gradient."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.gaussian import gaussian_nll
from kd_hpo.core.gaussian_means import gaussian_means
from kd_hpo.core.gradient_scaling import scaled_linear

B, N, WIDTHS, CHANNELS = 3, 4, (5, 2), (2, 1, 3)
J, C, S, T = sum(WIDTHS), sum(CHANNELS), len(WIDTHS), len(CHANNELS)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHARES = torch.block_diag(*(torch.full((c, 1), 1 / c, dtype=torch.float64) for c in CHANNELS))
LAYERS = torch.block_diag(*(torch.ones(w, 1, dtype=torch.float64) for w in WIDTHS))
SAME = LAYERS @ LAYERS.t()
SCALES = {"several": randn(C, S, seed=5), "zero": torch.zeros(C, S).double()}
ROWS = {"rows": randn(B, N, J), "channels_first": randn(B, J, N).transpose(1, 2), "far": 50 + randn(B, N, J)}
TARGETS = {"rows": randn(B, N, C, seed=4), "part_of_a_block": randn(B, N, C + 2, seed=4)[..., 1:-1]}


def plain(inputs: list[Tensor], target: Tensor, scale: Tensor) -> Tensor:
    x, weight, bias, variance = inputs
    found = []
    for s, (of_layer, w) in enumerate(zip(x.split(WIDTHS, 2), weight.split(WIDTHS, 1), strict=True)):
        nll = gaussian_nll(scaled_linear(of_layer, w, bias[:, s], scale[:, s]), target, variance[:, s])
        found.append(nll.mean(0) @ SHARES.to(x))
    return torch.stack(found, 1)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("x", ROWS.values(), ids=ROWS)
def test_equals_the_plain_formulas(x: Tensor, scale: Tensor, target: Tensor) -> None:
    inputs = [x, randn(C, J, seed=1), randn(C, S, seed=2), randn(C, S, seed=3).square() + 0.1]
    inputs = [v.clone().requires_grad_() for v in inputs]
    actual, expected = gaussian_means(*inputs, target, SHARES, LAYERS, SAME, scale), plain(inputs, target, scale)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    upstream = randn(T, S, seed=7)  # every pair counts differently
    got = torch.autograd.grad(actual, inputs, upstream)
    for g, wanted in zip(got, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-8, atol=1e-10)


def test_at_scale_one_passes_gradcheck() -> None:
    target, one = randn(B, N, C, seed=4), torch.ones(C, S, dtype=torch.float64)
    inputs = (randn(B, N, J), randn(C, J, seed=1), randn(C, S, seed=2), randn(C, S, seed=3).square() + 0.5)
    inputs = tuple(v.requires_grad_() for v in inputs)
    assert torch.autograd.gradcheck(
        lambda *xs: gaussian_means(*xs, target, SHARES, LAYERS, SAME, one), inputs, check_forward_ad=True
    )


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_single_precision_is_as_good_as_that_of_the_plain_formulas(mean: float) -> None:
    """Features far from 0, and errors much smaller than the standardised targets: what a difference of squares would lose."""
    rows, noise = mean + randn(64, 49, J), randn(64, 49, C, seed=4)
    weight = randn(C, J, seed=1) / J
    target = (rows - mean)[..., : WIDTHS[0]] @ weight[:, : WIDTHS[0]].t() + 0.03 * noise  # an error of a thousandth
    values = [rows, weight, -mean * weight @ LAYERS, torch.full((C, S), 0.01).double()]

    def first_layer(dtype: torch.dtype, fast: bool) -> list[Tensor]:
        """Its losses and their gradients."""
        inputs = [v.to(dtype).requires_grad_() for v in values]
        aim, shares, layers, same, one = (v.to(dtype) for v in (target, SHARES, LAYERS, SAME, torch.ones(C, S)))
        matrix = gaussian_means(*inputs, aim, shares, layers, same, one) if fast else plain(inputs, aim, one)
        return [matrix[:, 0].detach(), *torch.autograd.grad(matrix[:, 0].sum(), inputs)]

    exact = first_layer(torch.float64, fast=False)
    for fast, slow, e in zip(first_layer(torch.float32, True), first_layer(torch.float32, False), exact, strict=True):
        assert (fast - e).abs().max() <= 4 * (slow - e).abs().max() + 1e-4 * e.abs().max()
