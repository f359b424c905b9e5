"""Forward as usual; backward, only what flows into the student is scaled.

The judge is an explicit construction from plain operations: with u(x, s) = s x + (1 - s) stop(x), the value is x and the
derivative s. Each output channel of the linear map gets an input of its own, u(x, s_o).
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.core.gradient_scaling import scaled_identity, scaled_linear

B, N, C_IN, C_OUT = 3, 4, 5, 2


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explicit_linear(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    scale = scale.expand(*x.shape[:-1], C_OUT)
    outputs = []
    for o in range(C_OUT):
        s = scale[..., o, None]
        outputs.append((s * x + (1 - s) * x.detach()) @ weight[o] + bias[o])
    return torch.stack(outputs, -1)


SCALES = {
    "a_channel": randn(C_OUT, seed=3),
    "an_example_and_channel": randn(B, 1, C_OUT, seed=4),
    "an_element": randn(B, N, C_OUT, seed=5),
    "one": torch.ones(C_OUT, dtype=torch.float64),
    "zero_for_a_channel": torch.tensor([0.0, 2.0], dtype=torch.float64),
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_scaled_linear_matches_explicit_construction(scale: Tensor) -> None:
    x, weight, bias = (v.requires_grad_() for v in (randn(B, N, C_IN), randn(C_OUT, C_IN, seed=1), randn(C_OUT, seed=2)))
    y, expected = scaled_linear(x, weight, bias, scale), explicit_linear(x, weight, bias, scale)
    torch.testing.assert_close(y, F.linear(x, weight, bias), rtol=0, atol=0)
    upstream = randn(*y.shape, seed=6)  # a loss that weighs every output differently
    actual = torch.autograd.grad(y, (x, weight, bias), upstream)
    for got, wanted in zip(actual, torch.autograd.grad(expected, (x, weight, bias), upstream), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-12)
    plain = torch.autograd.grad(F.linear(x, weight, bias), (weight, bias), upstream)
    for got, wanted in zip(actual[1:], plain, strict=True):  # weight and bias: as if there were no scale
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-12)


def test_scaled_linear_at_scale_one_passes_gradcheck() -> None:
    inputs = tuple(v.requires_grad_() for v in (randn(2, 3, C_IN), randn(C_OUT, C_IN, seed=1), randn(C_OUT, seed=2)))
    one = torch.ones(C_OUT, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, w, b: scaled_linear(x, w, b, one).tanh(), inputs)


def test_scaled_linear_takes_rows_without_positions() -> None:
    x, weight, bias = (v.requires_grad_() for v in (randn(B, C_IN), randn(C_OUT, C_IN, seed=1), randn(C_OUT, seed=2)))
    scale = randn(B, C_OUT, seed=3)
    actual = torch.autograd.grad(scaled_linear(x, weight, bias, scale).square().sum(), (x, weight, bias))
    expected = torch.autograd.grad(explicit_linear(x, weight, bias, scale).square().sum(), (x, weight, bias))
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-12)


def test_scaled_identity() -> None:
    x, scale, upstream = randn(B, N).requires_grad_(), randn(B, 1, seed=1), randn(B, N, seed=2)
    y = scaled_identity(x, scale)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    torch.testing.assert_close(gradient, scale * upstream, rtol=1e-12, atol=0)


def test_scale_gets_no_gradient_and_there_is_no_second_derivative() -> None:
    # The scaled backward is the gradient of no function, so a second derivative would be wrong: it is refused.
    x, scale = randn(B, N).requires_grad_(), randn(B, 1, seed=1).requires_grad_()
    y = scaled_identity(x, scale).square().sum()
    assert torch.autograd.grad(y, scale, retain_graph=True, allow_unused=True) == (None,)
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()  # type: ignore[no-untyped-call]
