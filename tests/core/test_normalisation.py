"""Normalised rows and channels: against torch's own, and finite where there is nothing to divide by."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.core.normalisation import batch_normalised, inverse_norm, unit_rows


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rows_have_length_one() -> None:
    x = randn(3, 4, 5)
    torch.testing.assert_close(unit_rows(x), F.normalize(x, dim=-1), rtol=1e-12, atol=0)


def test_gradient_of_unit_rows_is_a_central_difference() -> None:
    assert torch.autograd.gradcheck(unit_rows, (randn(2, 4).requires_grad_(),))


def test_a_row_of_zeros_stays_and_passes_its_gradient_on() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    unit = unit_rows(x)
    assert not unit.any()
    (gradient,) = torch.autograd.grad(unit, x, torch.full_like(x, 7.0))
    assert torch.equal(gradient, torch.full_like(x, 7.0))


def test_the_inverse_of_no_length_is_one() -> None:
    assert inverse_norm(torch.tensor([0.0, 1e-30, 4.0, 0.25])).tolist() == [1.0, 1.0, 0.5, 2.0]


def test_batch_norm_is_that_of_the_batch() -> None:
    x, gain, shift = 3 + 2 * randn(4, 5, 6), randn(6), randn(6).abs()
    expected = F.batch_norm(x.flatten(0, 1), None, None, gain, shift, training=True, eps=1e-5).view_as(x)
    torch.testing.assert_close(batch_normalised(x, gain, shift), expected, rtol=1e-10, atol=1e-12)


def test_batch_norm_of_a_channel_that_does_not_vary_is_its_shift() -> None:
    x = torch.full((4, 5, 2), 3.0, dtype=torch.float64, requires_grad=True)
    normal = batch_normalised(x, torch.ones(2), torch.tensor([0.5, -1.0]))
    assert normal[0, 0].tolist() == [0.5, -1.0]
    (gradient,) = torch.autograd.grad(normal.square().sum(), x)
    assert gradient.isfinite().all()
