"""ReviewKD, against its fusion made of torch's own layers and its loss in slow loops, from the paper."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.core.review import Review, hierarchical_context

B = 5


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("side", "levels"), [(8, [8, 4, 2, 1]), (4, [4, 2, 1]), (2, [2, 1]), (1, [1])])
def test_context_is_the_mean_over_levels_that_halve(side: int, levels: list[int]) -> None:
    student, teacher, total = drawn(0, 2, 3, side, side), drawn(1, 2, 3, side, side), torch.zeros(2).double()
    for place, parts in enumerate(levels):
        each, of_level = side // parts, torch.zeros(2).double()
        for row in range(parts):
            for column in range(parts):
                a, b = (x[:, :, each * row : each * (row + 1), each * column : each * (column + 1)] for x in (student, teacher))
                of_level += (a.mean((2, 3)) - b.mean((2, 3))).square().mean(1) / parts**2
        total += 0.5**place * of_level
    expected = total / sum(0.5**place for place in range(len(levels)))
    torch.testing.assert_close(hierarchical_context(student, teacher), expected, rtol=1e-10, atol=1e-12)


def norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    layer = nn.BatchNorm2d(x.shape[1]).double()
    layer.weight.data, layer.bias.data = gain, shift
    return layer(x)


def test_a_pair_reviews_its_own_layer_and_the_deeper_ones() -> None:
    student = [LayerShape("s0", 2, 8, 8), LayerShape("s1", 5, 4, 4), LayerShape("s2", 6, 1, 1)]
    plan = pair_plan([LayerShape("t", 3, 4, 4)], student, meet=False)
    pairs = PairMatrix(plan, Review(), generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        for p in pairs.parameters():
            p += 0.3 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel()))
    state = {name.removeprefix("feature_pairs."): p.detach() for name, p in pairs.named_parameters()}
    features, block = [drawn(0, B, 2, 8, 8), drawn(1, B, 5, 4, 4), drawn(2, B, 6)], drawn(3, B, 16, 3)
    found = pairs.sample_losses(features, Targets(drawn(4, B, 2), {(4, 4): block}))

    def reduced(s: int, feature: Tensor) -> Tensor:
        x = F.conv2d(feature, state[f"fusions.{s}.reduce"][:, :, None, None])
        return norm(x, state[f"fusions.{s}.gain"], state[f"fusions.{s}.shift"])

    def fused(s: int, feature: Tensor, deeper: Tensor) -> Tensor:
        x, y = reduced(s, feature), F.interpolate(deeper, feature.shape[2:], mode="nearest")
        attention = F.conv2d(torch.cat([x, y], 1), state[f"fusions.{s}.attention"][:, :, None, None], state[f"fusions.{s}.bias"])
        share = attention.sigmoid()
        return x * share[:, :1] + y * share[:, 1:]

    last = reduced(2, features[2][:, :, None, None])
    middle = fused(1, features[1], last)
    teacher = block.transpose(1, 2).unflatten(2, (4, 4))
    for s, maps in enumerate((fused(0, features[0], middle), middle, last)):
        hint = F.conv2d(F.interpolate(maps, (4, 4), mode="nearest"), state[f"heads.0-{s}.weight"], padding=1)
        hint = norm(hint, state[f"heads.0-{s}.gain"], state[f"heads.0-{s}.shift"])
        torch.testing.assert_close(found[:, 0, s], hierarchical_context(hint, teacher), rtol=1e-9, atol=1e-12)
