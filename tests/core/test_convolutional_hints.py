"""Hints by three convolutions, against the same regressor made of torch's own layers."""

import pytest
import torch
from torch import nn

from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, pair_plan

B = 5


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("relu", [False, True])
def test_a_pair_is_compared_through_its_own_three_convolutions(relu: bool) -> None:
    teacher = [LayerShape("t0", 2, 3, 3), LayerShape("t1", 4, 3, 3)]
    pairs = PairMatrix(
        pair_plan(teacher, [LayerShape("s", 3, 6, 6)]), pair_loss("hint", relu=relu, regressor="convolutions")
    ).double()
    state = {name: p.detach() for name, p in pairs.named_parameters()}
    feature, block = drawn(0, B, 3, 6, 6), drawn(1, B, 9, 6)
    found = pairs.sample_losses([feature], Targets(drawn(2, B, 2), {(3, 3): block}))
    maps = block.transpose(1, 2).unflatten(2, (3, 3)).split([2, 4], dim=1)
    for t, (layer, target) in enumerate(zip(teacher, maps, strict=True)):
        own = {name.partition(f"{t}-0.")[2]: p for name, p in state.items() if f"{t}-0." in name}
        wide = 2 * layer.channels
        sides = ((3, wide, 1), (wide, wide, 3), (wide, layer.channels, 1))
        first, second, third = (nn.Conv2d(a, b, k, padding=k // 2, bias=False).double() for a, b, k in sides)
        first.weight.data, second.weight.data = own["reduce"][:, :, None, None], own["around"]
        third.weight.data = own["give"][:, :, None, None]
        regressor = nn.Sequential(
            nn.AdaptiveAvgPool2d(3),
            *(first, nn.BatchNorm2d(wide).double(), nn.ReLU()),
            *(second, nn.BatchNorm2d(wide).double(), nn.ReLU()),
            third,
        )
        hint = regressor(feature)
        expected = ((hint.relu() if relu else hint) - target).square().mean((1, 2, 3))
        torch.testing.assert_close(found[:, t, 0], expected, rtol=1e-9, atol=1e-12)
