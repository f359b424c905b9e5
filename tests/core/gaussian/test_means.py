"""The means by second moments against the plain formulas that they stand for, value and every gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_hpo.core.gaussian.formula import gaussian_nll, inverse_softplus, softplus_variance
from kd_hpo.core.gaussian.means import BlockInputs, BlockShape, Cells, gaussian_means
from kd_hpo.core.gradient_scaling import scaled_linear

B, FLOOR = 3, 1e-3


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
            weight, bias, rho = randn(J, C, seed=seed + 1), randn(S, C, seed=seed + 2), randn(S, C, seed=seed + 3)
            target = randn(B, N, C + 2, seed=seed + 4)[..., 1:-1]
            found.append(BlockInputs(weight, bias, rho, target, list(x.split(widths, 2))))
        return found


EXAMPLES = {
    "one_block": Example((4,), ((5, 2),), ((2, 1, 3),)),
    "three_blocks": Example((6, 4, 1), ((4,), (2, 3), (3, 1, 2)), ((2,), (1, 4), (3, 2, 2))),
}


def with_gradients(inputs: Sequence[BlockInputs]) -> tuple[list[BlockInputs], list[Tensor]]:
    """Copies as leaves, but for the targets, and these leaves."""

    def leaf(value: Tensor) -> Tensor:
        return value.detach().clone().requires_grad_()

    copies = [BlockInputs(leaf(i.weight), leaf(i.bias), leaf(i.rho), i.target, [leaf(x) for x in i.x]) for i in inputs]
    return copies, [v for i in copies for v in (i.weight, i.bias, i.rho, *i.x)]


def plain(example: Example, inputs: Sequence[BlockInputs], scale: Tensor) -> Tensor:
    found = []
    for i, channels, of_block in zip(inputs, example.channels, example.cells.of_blocks(scale), strict=True):
        of_layers = zip(i.x, i.weight.split([x.shape[2] for x in i.x]), i.bias, i.rho, of_block, strict=True)
        for x, weight, bias, rho, s in of_layers:
            nll = gaussian_nll(scaled_linear(x, weight.t(), bias, s), i.target, softplus_variance(rho, FLOOR)).mean(0)
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
    actual = gaussian_means(cells, inputs, FLOOR, None if scales == "one" else scale)
    expected = plain(example, inputs, scale)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    upstream = randn(len(expected), seed=7)  # every pair counts differently
    got = torch.autograd.grad(actual, leaves, upstream)
    for g, wanted in zip(got, torch.autograd.grad(expected, leaves, upstream), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-8, atol=1e-10)


def test_regressors_learn_from_features_that_are_constants() -> None:
    example = EXAMPLES["three_blocks"]
    inputs, _ = with_gradients(example.inputs())
    constant = [i._replace(x=[x.detach() for x in i.x]) for i in inputs]
    leaves = [v for i in inputs for v in (i.weight, i.bias, i.rho)]
    ones = torch.ones_like(example.cells.share)
    got = torch.autograd.grad(gaussian_means(example.cells, constant, FLOOR).sum(), leaves)
    for g, wanted in zip(got, torch.autograd.grad(plain(example, inputs, ones).sum(), leaves), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_at_scale_one_passes_gradcheck(example: Example) -> None:
    inputs, leaves = with_gradients(example.inputs())

    def losses(*values: Tensor) -> Tensor:
        left = iter(values)
        of_values = [BlockInputs(next(left), next(left), next(left), i.target, [next(left) for _ in i.x]) for i in inputs]
        return gaussian_means(example.cells, of_values, FLOOR)

    assert torch.autograd.gradcheck(losses, leaves, check_forward_ad=True)


@pytest.mark.parametrize("only", ["x", "weight", "bias", "rho"])
def test_forward_mode_along_some_of_the_inputs(only: str) -> None:
    """Those without a tangent are taken as constants."""
    example = EXAMPLES["three_blocks"]
    inputs, _ = with_gradients(example.inputs())
    moved = {"x": inputs[1].x[0], "weight": inputs[1].weight, "bias": inputs[1].bias, "rho": inputs[1].rho}[only]
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

    found = [BlockInputs(*(swapped(v) for v in i[:4]), [swapped(x) for x in i.x]) for i in inputs]
    return gaussian_means(example.cells, found, FLOOR)


@pytest.mark.parametrize("selection", [
    {"places": slice(1, 3), "rows": slice(4, 9), "columns": slice(2, 7)},
    {"places": torch.tensor([0, 2]), "rows": torch.tensor([0, 1, 2, 3, 7, 8]), "columns": torch.tensor([0, 1, 4, 5, 6])},
    {"columns": torch.tensor([0, 1, 4, 5, 6])},
], ids=["side_by_side", "apart", "all_layers"])  # fmt: skip
def test_layers_that_stand_among_others(selection: dict[str, Any]) -> None:
    """Of three layers with 4, 3 and 2 channels, and teachers with 2, 2 and 3: the others get no gradient."""
    (whole,) = Example((4,), ((4, 3, 2),), ((2, 2, 3),)).inputs()
    rows, places, columns = (_listed(selection.get(name), of) for name, of in (("rows", 9), ("places", 3), ("columns", 7)))
    widths, channels = tuple((4, 3, 2)[place] for place in places), (2, 3)
    part = whole._replace(target=whole.target[..., columns], x=[whole.x[place] for place in places])
    (inputs,), leaves = with_gradients([part])
    cells = Cells([BlockShape(widths, channels, randn(), **selection)], randn())
    actual = gaussian_means(cells, [inputs], FLOOR)
    chosen = inputs._replace(
        weight=inputs.weight[rows][:, columns], bias=inputs.bias[places][:, columns], rho=inputs.rho[places][:, columns]
    )
    example = Example((4,), (widths,), (channels,))
    expected = plain(example, [chosen], torch.ones_like(example.cells.share))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    upstream = randn(len(expected), seed=7)
    got, wanted = (torch.autograd.grad(losses, leaves, upstream, retain_graph=True) for losses in (actual, expected))
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-10)
    with torch.autograd.forward_ad.dual_level():
        duals = BlockInputs(*(torch.autograd.forward_ad.make_dual(v.detach(), torch.ones_like(v)) for v in inputs[:3]), *part[3:])
        along = torch.autograd.forward_ad.unpack_dual(gaussian_means(cells, [duals], FLOOR)).tangent
    assert along is not None
    torch.testing.assert_close((upstream * along).sum(), torch.stack([g.sum() for g in wanted[:3]]).sum(), rtol=1e-8, atol=1e-10)


def _listed(where: slice | Tensor | None, of: int) -> list[int]:
    if where is None:
        return list(range(of))
    return list(range(of))[where] if isinstance(where, slice) else where.tolist()


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_single_precision_is_as_good_as_that_of_the_plain_formulas(mean: float) -> None:
    """Features far from 0, and errors much smaller than the standardised targets: what a difference of squares would lose."""
    example = Example((49,), ((5, 2),), ((2, 1, 3),))
    rows, weight = mean + randn(64, 49, 7), randn(7, 6, seed=1) / 7
    weight[5:] = 0  # the second layer is looked at by nothing
    target = (rows - mean) @ weight + 0.03 * randn(64, 49, 6, seed=4)  # an error of a thousandth
    bias = -mean * torch.stack([weight[:5].sum(0), weight[5:].sum(0)])
    rho = torch.full((2, 6), inverse_softplus(0.01 - 1e-3), dtype=torch.float64)
    values = BlockInputs(weight, bias, rho, target, list(rows.split((5, 2), 2)))

    def first_layer(dtype: torch.dtype, fast: bool) -> list[Tensor]:
        """Its losses and their gradients."""
        inputs = BlockInputs(*(v.to(dtype) for v in values[:4]), [x.to(dtype) for x in values.x])
        (copy,), leaves = with_gradients([inputs])
        cells = Cells([BlockShape((5, 2), (2, 1, 3), inputs.weight)], inputs.weight)
        losses = gaussian_means(cells, [copy], FLOOR) if fast else plain(example, [copy], torch.ones_like(cells.share))
        gradients = torch.autograd.grad(losses[:3].sum(), leaves, allow_unused=True, materialize_grads=True)
        return [losses[:3].detach(), *gradients]

    exact = first_layer(torch.float64, fast=False)
    for fast, slow, e in zip(first_layer(torch.float32, True), first_layer(torch.float32, False), exact, strict=True):
        assert (fast - e).abs().max() <= 4 * (slow - e).abs().max() + 1e-4 * e.abs().max()
