"""Features of every kind as maps, and their pooling."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.maps import as_map, pooled
from kd_hpo.errors import FeatureMismatch

B, C = 2, 3


def counting(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel()), dtype=torch.float64).reshape(shape)


def test_a_map_is_itself() -> None:
    feature = counting(B, C, 4, 5)
    assert as_map(feature) is feature


def test_a_vector_is_one_position() -> None:
    feature = counting(B, C)
    assert as_map(feature).shape == (B, C, 1, 1)
    assert torch.equal(as_map(feature)[:, :, 0, 0], feature)


@pytest.mark.parametrize(
    ("tokens", "class_tokens", "side"), [(4, 0, 2), (9, 0, 3), (100, 0, 10), (5, 1, 2), (10, 1, 3), (17, 1, 4), (197, 1, 14)]
)
def test_tokens_of_a_grid_go_back_to_it_without_the_class_token(tokens: int, class_tokens: int, side: int) -> None:
    feature = counting(B, tokens, C)
    image = as_map(feature)
    assert image.shape == (B, C, side, side)
    for b in range(B):
        for row in range(side):
            for column in range(side):  # tokens run along the rows
                assert torch.equal(image[b, :, row, column], feature[b, class_tokens + row * side + column])


@pytest.mark.parametrize("tokens", [1, 2, 3, 6, 7, 8, 12])
def test_tokens_of_no_grid_are_averaged(tokens: int) -> None:
    feature = counting(B, tokens, C)
    image = as_map(feature)
    assert image.shape == (B, C, 1, 1)
    for b in range(B):
        mean = sum((feature[b, n] for n in range(tokens)), torch.zeros(C, dtype=torch.float64)) / tokens
        torch.testing.assert_close(image[b, :, 0, 0], mean, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(B,), (B, C, 2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureMismatch, match=rf"shape \({B}.*neither a map, tokens nor a vector"):
        as_map(torch.zeros(shape))


def test_pooled_by_hand() -> None:
    # One 4 x 2 map to 2 x 1: the means of the upper four and of the lower four numbers, one row a position.
    feature = torch.tensor([[[[1.0, 2], [3, 4], [5, 6], [7, 12]], [[0, 0], [0, 8], [1, 1], [1, 1]]]])
    assert pooled(feature, (2, 1)).tolist() == [[[2.5, 2.0], [7.5, 1.0]]]


def test_pooled_to_its_own_size_only_lays_out_rows() -> None:
    feature = counting(B, C, 2, 3)
    rows = pooled(feature, (2, 3))
    assert rows.shape == (B, 6, C)
    for h in range(2):
        for w in range(3):
            assert torch.equal(rows[:, h * 3 + w], feature[:, :, h, w])


def test_pooled_where_the_size_does_not_divide() -> None:
    # 3 to 2: the windows [0, 1] and [1, 2] overlap.
    feature = torch.tensor([[[[1.0], [2.0], [6.0]]]])
    assert pooled(feature, (2, 1)).tolist() == [[[1.5], [4.0]]]
