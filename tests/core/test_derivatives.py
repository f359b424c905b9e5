"""Derivatives through what has no forward mode, or no second derivative, in float64: the numbers of what has both."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd_hpo.core.derivatives import (
    Derivatives,
    hessian_product,
    hessian_product_by_differences,
    slope_by_backward,
    slope_by_double_backward,
)
from kd_hpo.core.hypergradient import slope
from kd_hpo.core.params import Params
from tests.trial.own import MemorySaving


class SwishOnce(MemorySaving):
    """Differentiated once alone."""

    backward = staticmethod(once_differentiable(MemorySaving.backward))


class SwishOutside(MemorySaving):
    """As kernels of one's own: torch does not look into the backward pass, and says nothing of it."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.no_grad():
            return MemorySaving.backward(ctx, g).detach()


class Rounded(torch.autograd.Function):
    """Straight through: a step by its values, a line by its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


PLAIN = torch.nn.functional.silu
VARIANTS = {"memory-saving": MemorySaving.apply, "once": SwishOnce.apply, "outside": SwishOutside.apply}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(activation: Any, seed: int = 0) -> tuple[Any, Params, Params]:
    """(losses of w, (2, 3); w; a direction)"""
    draw = torch.Generator().manual_seed(seed)
    w = {"a": torch.randn(4, 5, generator=draw), "b": torch.randn(6, 4, generator=draw)}
    q = {name: torch.randn(value.shape, generator=draw) for name, value in w.items()}
    x = torch.randn(5, 7, generator=draw)

    def losses(w: Params) -> Tensor:
        return (w["b"] @ activation(w["a"] @ x)).square().mean(1).view(2, 3)

    return losses, w, q


@pytest.mark.parametrize("way", [slope_by_double_backward, slope_by_backward])
def test_each_way_to_a_slope_is_that_of_forward_mode(way: Any) -> None:
    losses, w, q = problem(PLAIN)
    torch.testing.assert_close(way(losses, w, q), slope(losses, w, q), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_has_no_forward_mode_has_the_slope_of_its_formula(variant: str) -> None:
    told = list[str]()
    derivatives = Derivatives(told.append)
    losses, w, q = problem(VARIANTS[variant])
    expected = slope(*problem(PLAIN))
    for _ in range(2):
        with torch.no_grad():  # as a trial calls it
            torch.testing.assert_close(derivatives.slope(losses, w, q), expected, rtol=1e-12, atol=1e-12)
    assert all("do not go through the student" in words for words in told)
    ends = {"memory-saving": "two backward passes", "once": "a backward pass for each", "outside": "a backward pass for each"}
    assert ends[variant] in told[-1] and len(told) == 1 + (variant != "memory-saving")


def test_a_gradient_that_is_not_of_the_values_is_followed_as_training_does() -> None:
    """The rounding's own slope is 0; differences of values would be noise."""
    losses, w, q = problem(lambda x: Rounded.apply(x).square())

    def by_hand(w: Params) -> Tensor:
        return problem(lambda x: (x + ((x.detach() * 8).round() / 8 - x.detach())).square())[0](w)

    torch.testing.assert_close(Derivatives().slope(losses, w, q), slope(by_hand, w, q), rtol=1e-12, atol=1e-12)


def test_the_usual_way_is_kept_and_nothing_is_told() -> None:
    told = list[str]()
    losses, w, q = problem(PLAIN)
    assert torch.equal(Derivatives(told.append).slope(losses, w, q), slope(losses, w, q))
    assert not told


def test_an_error_of_its_own_goes_on() -> None:
    def losses(w: Params) -> Tensor:
        raise RuntimeError("shapes do not fit")

    _, w, q = problem(PLAIN)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Derivatives().slope(losses, w, q)


def gradient_of(activation: Any) -> Any:
    losses = problem(activation)[0]

    def gradient(w: Params) -> Params:
        found = torch.autograd.grad(losses(w).sum(), list(w.values()), create_graph=True)
        return dict(zip(w, found, strict=True))

    return gradient


@pytest.mark.parametrize("variant", ["once", "outside"])
def test_second_derivatives_that_are_missing_are_differences(variant: str) -> None:
    """torch says of neither that they are missing: it gives the rest of them."""
    told = list[str]()
    _, w, v = problem(PLAIN)
    exact = hessian_product(gradient_of(PLAIN), w, v)
    by_differences = hessian_product_by_differences(gradient_of(PLAIN), w, v)
    of = VARIANTS[variant]
    found = Derivatives(told.append).hessian_product(gradient_of(of), w, v, problem(of)[0])
    kept = Derivatives().hessian_product(gradient_of(MemorySaving.apply), w, v, problem(MemorySaving.apply)[0])
    for name in w:
        scale = float(exact[name].abs().max())
        torch.testing.assert_close(by_differences[name], exact[name], rtol=0, atol=1e-6 * scale)
        torch.testing.assert_close(found[name], exact[name], rtol=0, atol=1e-6 * scale)
        torch.testing.assert_close(kept[name], exact[name], rtol=1e-10, atol=1e-10 * scale)
    assert "differences of two gradients" in told[-1]
    assert torch.equal(Derivatives().hessian_product(gradient_of(PLAIN), w, v, problem(PLAIN)[0])["a"], exact["a"])


def test_a_hessian_product_of_some_parameters_is_of_those() -> None:
    _, w, v = problem(PLAIN)
    some = {"a": v["a"]}
    for way in (hessian_product, hessian_product_by_differences):
        found = way(gradient_of(PLAIN), w, some)
        whole = hessian_product(gradient_of(PLAIN), w, some | {"b": torch.zeros_like(v["b"])})
        assert set(found) == {"a"}
        torch.testing.assert_close(found["a"], whole["a"], rtol=1e-5, atol=1e-6)
    assert not hessian_product_by_differences(gradient_of(PLAIN), w, {"a": torch.zeros_like(v["a"])})["a"].any()
