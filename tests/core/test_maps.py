"""Features of every kind as maps, and their pooling."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.maps import as_map, gradient_in_own_layout, layer_shape, pooled, rows_of
from kd_hpo.core.plan import LayerShape
from kd_hpo.errors import FeatureMismatch

B, C = 2, 3


def counting(*shape: int) -> Tensor:
    return torch.arange(float(torch.Size(shape).numel()), dtype=torch.float64).reshape(shape)


def read(feature: Tensor, image: tuple[int, int] = (32, 32)) -> Tensor:
    layer = layer_shape("layer", feature, image)
    found = as_map(feature, layer)
    assert found.shape[1:] == (layer.channels, layer.height, layer.width)
    return found


@pytest.mark.parametrize(
    ("tokens", "maps", "grid"),
    [
        (200, {(14, 14), (56, 56)}, (14, 14)),  # four registers without a class token
        (204, {(14, 14)}, (14, 14)),  # eight
        (17, {(3, 3)}, (3, 3)),
        (140, {(14, 10)}, (14, 10)),
        (50, {(2, 2)}, (7, 7)),  # too many to stand before so small a grid
        (200, set(), (1, 1)),
    ],
)
def test_a_map_of_the_network_tells_how_many_tokens_are_extra(
    tokens: int, maps: set[tuple[int, int]], grid: tuple[int, int]
) -> None:
    feature = counting(B, tokens, C)
    image = (224, 160) if grid == (14, 10) else (224, 224)
    layer = layer_shape("layer", feature, image, maps)
    assert (layer.height, layer.width) == grid
    if grid != (1, 1):
        assert torch.equal(as_map(feature, layer).flatten(2).transpose(1, 2), feature[:, tokens - grid[0] * grid[1] :])


def test_a_map_is_itself() -> None:
    feature = counting(B, C, 4, 5)
    assert read(feature) is feature


def test_a_vector_is_one_position() -> None:
    feature = counting(B, C)
    assert read(feature).shape == (B, C, 1, 1)
    assert torch.equal(read(feature)[:, :, 0, 0], feature)


@pytest.mark.parametrize(
    ("tokens", "extra", "grid", "image"),
    [
        (4, 0, (2, 2), (32, 32)),
        (9, 0, (3, 3), (32, 32)),
        (100, 0, (10, 10), (32, 32)),
        (5, 1, (2, 2), (32, 32)),
        (10, 1, (3, 3), (32, 32)),
        (17, 1, (4, 4), (32, 32)),
        (197, 1, (14, 14), (224, 224)),
        (198, 2, (14, 14), (224, 224)),
        (261, 5, (16, 16), (224, 224)),
        (32, 0, (4, 8), (32, 64)),
        (33, 1, (8, 4), (64, 32)),
    ],
)
def test_tokens_of_a_grid_go_back_to_it_without_extra_tokens(
    tokens: int, extra: int, grid: tuple[int, int], image: tuple[int, int]
) -> None:
    feature = counting(B, tokens, C)
    found = read(feature, image)
    assert found.shape == (B, C, *grid)
    for b in range(B):
        for row in range(grid[0]):
            for column in range(grid[1]):  # tokens run along the rows
                assert torch.equal(found[b, :, row, column], feature[b, extra + row * grid[1] + column])


@pytest.mark.parametrize(
    ("shape", "image", "last"),
    [
        ((8, 8, 96), (32, 32), True),
        ((1, 1, 96), (32, 32), True),
        ((96, 8, 8), (32, 32), False),
        ((96, 1, 1), (32, 32), False),
        ((4, 8, 96), (32, 64), True),
        ((96, 4, 8), (32, 64), False),
        ((16, 15, 15), (32, 32), False),
        ((8, 8, 8), (32, 32), False),
        ((64, 1, 16), (32, 32), False),
    ],
)
def test_channels_last_is_known_by_the_images_proportions(
    shape: tuple[int, int, int], image: tuple[int, int], last: bool
) -> None:
    feature = counting(B, *shape)
    layer = layer_shape("layer", feature, image)
    assert layer == (LayerShape("layer", shape[2], *shape[:2], channels_last=True) if last else LayerShape("layer", *shape))
    assert torch.equal(as_map(feature, layer)[1, 0, 0, 0], feature[1, 0, 0, 0])
    if last:
        assert torch.equal(as_map(feature, layer)[0, :, 0, 0], feature[0, 0, 0])


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 12])
def test_tokens_of_no_grid_are_averaged(tokens: int) -> None:
    feature = counting(B, tokens, C)
    image = read(feature)
    assert image.shape == (B, C, 1, 1)
    for b in range(B):
        mean = sum((feature[b, n] for n in range(tokens)), torch.zeros(C, dtype=torch.float64)) / tokens
        torch.testing.assert_close(image[b, :, 0, 0], mean, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(B,), (B, C, 2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FeatureMismatch, match="'odd'"):
        layer_shape("odd", torch.zeros(shape), (32, 32))


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


@pytest.mark.parametrize("examples", [2, 5], ids=["some", "all"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_comes_in_the_layout_of_the_feature(layout: torch.memory_format, examples: int) -> None:
    feature = torch.randn(5, 3, 4, 5).to(memory_format=layout).requires_grad_()
    inner = feature.clone()
    seen: list[tuple[int, ...]] = []
    inner.register_hook(lambda gradient: seen.append(gradient.stride()))
    first = gradient_in_own_layout(inner, examples)
    assert torch.equal(first, inner[:examples])
    rows = rows_of(first)
    (rows.square().sum() + rows.transpose(1, 2).contiguous().sum()).backward()
    expected = 2 * feature.detach() + 1
    expected[examples:] = 0
    torch.testing.assert_close(feature.grad, expected)
    assert seen == [inner.stride()]


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 3, 2, 2)])
def test_first_examples_can_be_differentiated_twice(shape: tuple[int, ...]) -> None:
    feature = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda f: gradient_in_own_layout(f, 3).pow(3), feature)
