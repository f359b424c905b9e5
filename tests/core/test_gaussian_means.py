"""The means by second moments against the plain formulas that they stand for, value and every gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kd_hpo.core.gaussian import gaussian_nll
from kd_hpo.core.gaussian_means import BlockInputs, BlockShape, Cells, gaussian_means
from kd_hpo.core.gradient_scaling import scaled_linear

B = 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Example:
    """Blocks of so many positions, widths of the student's layers, and channels of the teacher's."""

    positions: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    channels: tuple[tuple[int, ...], ...]

    @property
    def cells(self) -> Cells:
        blocks = zip(self.widths, self.channels, strict=True)
        return Cells([BlockShape(widths, channels, randn()) for widths, channels in blocks], randn())

    def inputs(self, *, mean: float = 0.0, channels_first: bool = False) -> list[BlockInputs]:
        found = []
        for i, (N, widths, channels) in enumerate(zip(self.positions, self.widths, self.channels, strict=True)):
            J, C, S, seed = sum(widths), sum(channels), len(widths), 10 * i
            x = mean + randn(B, J, N, seed=seed).transpose(1, 2) if channels_first else mean + randn(B, N, J, seed=seed)
            bias, variance = randn(S, C, seed=seed + 2), randn(S, C, seed=seed + 3).square() + 0.1
            target = randn(B, N, C + 2, seed=seed + 4)[..., 1:-1]
            found.append(BlockInputs(list(x.split(widths, 2)), target, randn(J, C, seed=seed + 1), bias, variance))
        return found


EXAMPLES = {
    "one_block": Example((4,), ((5, 2),), ((2, 1, 3),)),
    "three_blocks": Example((6, 4, 1), ((4,), (2, 3), (3, 1, 2)), ((2,), (1, 4), (3, 2, 2))),
}


def with_gradients(inputs: Sequence[BlockInputs]) -> tuple[list[BlockInputs], list[Tensor]]:
    """Copies as leaves, but for the targets, and these leaves."""
    copies = [
        BlockInputs(
            [x.detach().clone().requires_grad_() for x in i.x], i.target, *(v.detach().clone().requires_grad_() for v in i[2:])
        )
        for i in inputs
    ]
    return copies, [v for i in copies for v in (*i.x, *i[2:])]


def plain(example: Example, inputs: Sequence[BlockInputs], scale: Tensor) -> Tensor:
    found = []
    for i, channels, of_block in zip(inputs, example.channels, example.cells.of_blocks(scale), strict=True):
        of_layers = zip(i.x, i.weight.split([x.shape[2] for x in i.x]), i.bias, i.variance, of_block, strict=True)
        for x, weight, bias, variance, s in of_layers:
            nll = gaussian_nll(scaled_linear(x, weight.t(), bias, s), i.target, variance).mean(0)
            found += [of_teacher.mean() for of_teacher in nll.split(channels)]
    return torch.stack(found)


@pytest.mark.parametrize("layout", [{}, {"channels_first": True}, {"mean": 50.0}], ids=["rows", "channels_first", "far"])
@pytest.mark.parametrize("scales", ["several", "zero", "one"])
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_equals_the_plain_formulas(example: Example, scales: str, layout: dict[str, float]) -> None:
    cells = example.cells
    inputs, leaves = with_gradients(example.inputs(**layout))
    scale = {
        "several": randn(len(cells.pair), seed=5),
        "zero": torch.zeros_like(cells.share),
        "one": torch.ones_like(cells.share),
    }[scales]
    actual = gaussian_means(cells, inputs, None if scales == "one" else scale)
    expected = plain(example, inputs, scale)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    upstream = randn(len(expected), seed=7)  # every pair counts differently
    got = torch.autograd.grad(actual, leaves, upstream)
    for g, wanted in zip(got, torch.autograd.grad(expected, leaves, upstream), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-8, atol=1e-10)


def test_regressors_learn_from_features_that_are_constants() -> None:
    example = EXAMPLES["three_blocks"]
    inputs, _ = with_gradients(example.inputs())
    constant = [BlockInputs([x.detach() for x in i.x], *i[1:]) for i in inputs]
    leaves = [v for i in inputs for v in i[2:]]
    ones = torch.ones_like(example.cells.share)
    got = torch.autograd.grad(gaussian_means(example.cells, constant).sum(), leaves)
    for g, wanted in zip(got, torch.autograd.grad(plain(example, inputs, ones).sum(), leaves), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_at_scale_one_passes_gradcheck(example: Example) -> None:
    inputs, leaves = with_gradients(example.inputs())

    def losses(*values: Tensor) -> Tensor:
        left = iter(values)
        of_values = [BlockInputs([next(left) for _ in i.x], i.target, *(next(left) for _ in i[2:])) for i in inputs]
        return gaussian_means(example.cells, of_values)

    assert torch.autograd.gradcheck(losses, leaves, check_forward_ad=True)


@pytest.mark.parametrize("only", ["x", "weight", "bias", "variance"])
def test_forward_mode_along_some_of_the_inputs(only: str) -> None:
    """Those without a tangent are taken as constants."""
    example = EXAMPLES["three_blocks"]
    inputs, _ = with_gradients(example.inputs())
    moved = {"x": inputs[1].x[0], "weight": inputs[1].weight, "bias": inputs[1].bias, "variance": inputs[1].variance}[only]
    along = randn(*moved.shape, seed=9)
    expected = torch.autograd.functional.jacobian(lambda v: _losses_with(example, inputs, moved, v), moved.detach())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(moved.detach(), along)
        actual = torch.autograd.forward_ad.unpack_dual(_losses_with(example, inputs, moved, dual)).tangent
    assert actual is not None
    torch.testing.assert_close(actual, torch.tensordot(expected, along, along.dim()), rtol=1e-8, atol=1e-12)


def _losses_with(example: Example, inputs: list[BlockInputs], moved: Tensor, value: Tensor) -> Tensor:
    def swapped(tensor: Tensor) -> Tensor:
        return value if tensor is moved else tensor.detach()

    found = [BlockInputs([swapped(x) for x in i.x], i.target, *(swapped(v) for v in i[2:])) for i in inputs]
    return gaussian_means(example.cells, found)


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_single_precision_is_as_good_as_that_of_the_plain_formulas(mean: float) -> None:
    """Features far from 0, and errors much smaller than the standardised targets: what a difference of squares would lose."""
    example = Example((49,), ((5, 2),), ((2, 1, 3),))
    rows, weight = mean + randn(64, 49, 7), randn(7, 6, seed=1) / 7
    weight[5:] = 0  # the second layer is looked at by nothing
    target = (rows - mean) @ weight + 0.03 * randn(64, 49, 6, seed=4)  # an error of a thousandth
    bias = -mean * torch.stack([weight[:5].sum(0), weight[5:].sum(0)])
    values = BlockInputs(list(rows.split((5, 2), 2)), target, weight, bias, torch.full((2, 6), 0.01, dtype=torch.float64))

    def first_layer(dtype: torch.dtype, fast: bool) -> list[Tensor]:
        """Its losses and their gradients."""
        inputs = BlockInputs([x.to(dtype) for x in values.x], *(v.to(dtype) for v in values[1:]))
        (copy,), leaves = with_gradients([inputs])
        cells = Cells([BlockShape((5, 2), (2, 1, 3), inputs.weight)], inputs.weight)
        losses = gaussian_means(cells, [copy]) if fast else plain(example, [copy], torch.ones_like(cells.share))
        gradients = torch.autograd.grad(losses[:3].sum(), leaves, allow_unused=True, materialize_grads=True)
        return [losses[:3].detach(), *gradients]

    exact = first_layer(torch.float64, fast=False)
    for fast, slow, e in zip(first_layer(torch.float32, True), first_layer(torch.float32, False), exact, strict=True):
        assert (fast - e).abs().max() <= 4 * (slow - e).abs().max() + 1e-4 * e.abs().max()
