"""Relational distillation, against slow loops over pairs and triples of examples, written from the paper's formulas."""

import pytest
import torch
from torch import Tensor

from kd_hpo.config.pairs import Relational
from kd_hpo.core.comparisons import Comparison
from kd_hpo.core.pair_losses import PAIR_LOSSES
from kd_hpo.core.relations import relational, relations

B = 5
EPSILON = 1e-6


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def of_pairs(x: Tensor) -> list[list[float]]:
    """psi_D of eq. 5: the distance of each two, over the mean over two that are not the same."""
    found = [
        [float(((a - b).square().sum() + EPSILON).sqrt()) if i != j else 0.0 for j, b in enumerate(x)] for i, a in enumerate(x)
    ]
    mean = sum(map(sum, found)) / (B * (B - 1))
    return [[each / mean for each in row] for row in found]


def of_triples(x: Tensor) -> list[list[list[float]]]:
    """psi_A of eq. 7: the cosine at i between j and k."""

    def towards(i: int, j: int) -> Tensor:
        return (x[j] - x[i]) / ((x[j] - x[i]).square().sum() + EPSILON).sqrt()

    return [[[float(towards(i, j) @ towards(i, k)) for k in range(B)] for j in range(B)] for i in range(B)]


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_loss_is_the_formula(distance: float, angle: float) -> None:
    student, teacher = drawn(0, 1, 3), 4 * drawn(1, 2, 4)
    s, t = student.flatten(1), teacher.flatten(1)
    of_distance = [
        sum(huber(a - b) for a, b in zip(x, y, strict=True)) / B for x, y in zip(of_pairs(s), of_pairs(t), strict=True)
    ]
    of_angle = [
        sum(huber(a - b) for p, q in zip(x, y, strict=True) for a, b in zip(p, q, strict=True)) / B**2
        for x, y in zip(of_triples(s), of_triples(t), strict=True)
    ]
    loss = relational(distance, angle)
    found = loss.distance(loss.summary(student).unsqueeze(1), loss.summary(teacher).unsqueeze(1)).squeeze(1)
    expected = [distance * d + angle * a for d, a in zip(of_distance, of_angle, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_relations_know_no_shift_no_rotation_and_no_scale() -> None:
    x = drawn(0, 1, 6)
    turned = 3 * x @ torch.linalg.qr(torch.ones(6, 6).double() + torch.diag(torch.arange(6.0)))[0] + 5
    torch.testing.assert_close(relations(turned), relations(x), rtol=1e-5, atol=1e-5)


def test_one_example_has_no_relations() -> None:
    assert relations(drawn(0, 1, 3)[:1]).tolist() == [[0.0, 0.0]]


def test_settings_are_the_weights_of_the_two_terms() -> None:
    student, teacher = relations(drawn(0, 1, 3)), relations(drawn(1, 1, 3))
    settings: list[dict[str, float]] = [{}, {"distance": 0.0}, {"distance": 1.0, "angle": 2.0}]
    made = [PAIR_LOSSES["rkd"](**Relational.model_validate(given).arguments()) for given in settings]
    published, angles, both = (loss.distance(student, teacher) for loss in made if isinstance(loss, Comparison))
    distances = published - angles
    torch.testing.assert_close(both, distances / 25 + angles / 25)
