"""Exits at student layers, against the paper's formula in plain Python."""

import math

import pytest
import torch

from kd_hpo.core import exits
from kd_hpo.core.exits import Exit
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.nets.features import LOGITS

B, K = 4, 3


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_loss_of_an_exit_is_the_formula_at_a_linear_head_on_the_mean_over_positions() -> None:
    plan = pair_plan([LayerShape("fc", 2, 1, 1), LayerShape(LOGITS, K, 1, 1)], [LayerShape("conv", 5, 2, 2)])
    pairs = PairMatrix(plan, Exit(temperature=2.0, power=1.3)).double()
    feature, blocks = drawn(0, B, 5, 2, 2), drawn(1, B, 1, 2 + K)
    shares = torch.tensor([[1.0, 0, 0], [0, 0.3, 0.7], [0, 1, 0], [0.5, 0, 0.5]], dtype=torch.float64)
    found = pairs.sample_losses([feature], Targets(drawn(2, B, K), {(1, 1): blocks}, shares))
    weight, bias = pairs.parameters()
    expected = []
    for x, teacher, y in zip(feature, blocks[:, 0, 2:].tolist(), shares.tolist(), strict=True):
        head = [float(row @ x.mean((1, 2)) + b) / 2 for row, b in zip(weight.detach(), bias.detach(), strict=True)]
        p, q = ([math.exp(z) / sum(map(math.exp, logits)) for z in logits] for logits in (head, [z / 2 for z in teacher]))
        expected.append(-sum(((b + own) ** 1.3 - own) * math.log(a) for a, b, own in zip(p, q, y, strict=True)))
    assert found[:, 1, 0].tolist() == pytest.approx(expected, rel=1e-10)
    assert not found[:, 0].any()  # of the teacher's other layer there is no exit


def test_the_logits_have_the_name_that_networks_give_them() -> None:
    assert exits.LOGITS == LOGITS
