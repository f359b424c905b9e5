"""Parameters as one vector: the algebra of a tensor that holds them all."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.params import Params, added, between, dot, norm, scaled


def params(seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in (("a", (2, 3)), ("b", ()))}


def flat(a: Params) -> Tensor:
    return torch.cat([value.flatten() for value in a.values()])


def test_is_the_algebra_of_one_vector() -> None:
    a, b = params(0), params(1)
    assert list(added(b, a, 1.0)) == list(a)
    torch.testing.assert_close(flat(added(a, b, -0.3)), flat(a) - 0.3 * flat(b))
    torch.testing.assert_close(flat(between(a, b, 0.25)), 0.75 * flat(a) + 0.25 * flat(b))
    torch.testing.assert_close(flat(scaled(a, -2.0)), -2 * flat(a))
    assert dot(a, b) == pytest.approx(float(flat(a) @ flat(b)), rel=1e-12)
    assert norm(a) == pytest.approx(float(flat(a).norm()), rel=1e-12)


def test_products_are_added_up_in_double_precision() -> None:
    # 2^24 + 1 has no float32: a sum of float32 would lose each of the ones.
    ones = torch.ones(9)
    ones[0] = 2**12
    assert dot({"a": ones}, {"a": ones}) == 2**24 + 8
    assert isinstance(norm({"a": ones}), float)


def test_inputs_stay_as_they_are() -> None:
    a, b = params(0), params(1)
    for made in (added(a, b, 1.0), between(a, b, 0.5), scaled(a, 2.0)):
        for value in made.values():
            value.zero_()
    assert torch.equal(flat(a), flat(params(0))) and torch.equal(flat(b), flat(params(1)))
