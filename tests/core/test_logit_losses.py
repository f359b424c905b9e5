"""Losses of the logits by name, each against its formula in plain Python, and of one's own."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kd_hpo.core.logit_losses import LOGIT_LOSSES, categorical_kl, logit_loss
from kd_hpo.errors import ConfigError


def test_hinton_is_the_divergence_at_its_temperature_and_reads_no_label() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    loss = logit_loss("hinton", temperature=3.0)
    assert not loss.reads_labels
    assert torch.equal(loss(student, teacher, torch.full((5,), 99)), categorical_kl(student, teacher, 3.0))


# each formula in plain Python, one example or one number at a time

B, K = 5, 4
Row = list[float]


def drawn(seed: int) -> Tensor:
    return 2 * torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER, LABELS = drawn(0), drawn(1), torch.tensor([0, 3, 1, 1, 2])


def softmax(row: Sequence[float], temperature: float) -> Row:
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def kl(q: Row, p: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))


def standardised(row: Row) -> Row:
    mean = sum(row) / K
    deviation = math.sqrt(sum((z - mean) ** 2 for z in row) / (K - 1))
    return [(z - mean) / (deviation + 1e-7) for z in row]


def pearson(a: Row, b: Row) -> float:
    (of_a, of_b) = (sum(row) / len(row) for row in (a, b))
    above = sum((x - of_a) * (y - of_b) for x, y in zip(a, b, strict=True))
    return above / math.sqrt(sum((x - of_a) ** 2 for x in a) * sum((y - of_b) ** 2 for y in b))


def of_standardised(s: Row, t: Row, label: int) -> float:
    return 4 * kl(softmax(standardised(t), 2), softmax(standardised(s), 2))


def of_dkd(s: Row, t: Row, label: int) -> float:
    p, q = softmax(s, 3), softmax(t, 3)
    two = kl([q[label], 1 - q[label]], [p[label], 1 - p[label]])
    others = ([each / (1 - row[label]) for k, each in enumerate(row) if k != label] for row in (q, p))
    return 9 * (0.5 * two + 6 * kl(*others))


def of_mse(s: Row, t: Row, label: int) -> float:
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / K


def of_ofa(s: Row, t: Row, label: int) -> float:
    p, q, own = softmax(s, 2), softmax(t, 2), [float(k == label) for k in range(K)]
    return -sum(((b + y) ** 1.3 - y) * math.log(a) for a, b, y in zip(p, q, own, strict=True))


@pytest.mark.parametrize(
    ("kind", "settings", "formula"),
    [
        ("standardised", {"temperature": 2.0}, of_standardised),
        ("dkd", {"temperature": 3.0, "target": 0.5, "others": 6.0}, of_dkd),
        ("mse", {}, of_mse),
        ("ofa", {"temperature": 2.0, "power": 1.3}, of_ofa),
    ],
)
def test_loss_of_each_example_is_its_formula(kind: str, settings: dict[str, float], formula: object) -> None:
    assert callable(formula)
    expected = [formula(s, t, y) for s, t, y in zip(STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist(), strict=True)]
    assert logit_loss(kind, **settings)(STUDENT, TEACHER, LABELS).tolist() == pytest.approx(expected, rel=1e-10)


def test_dist_is_one_less_the_correlations_over_classes_and_over_the_batch() -> None:
    p, q = ([softmax(row, 4) for row in logits.tolist()] for logits in (STUDENT, TEACHER))
    inter = sum(1 - pearson(a, b) for a, b in zip(p, q, strict=True)) / B
    columns = [([row[k] for row in p], [row[k] for row in q]) for k in range(K)]
    intra = sum(1 - pearson(a, b) for a, b in columns) / K
    loss = logit_loss("dist", temperature=4.0, inter_class=2.0, intra_class=0.5)(STUDENT, TEACHER, LABELS)
    assert float(loss.mean()) == pytest.approx(16 * (2 * inter + 0.5 * intra), rel=1e-10)


def test_dist_refuses_a_batch_of_one_where_it_compares_over_the_batch() -> None:
    with pytest.raises(ConfigError, match="intra_class: 0"):
        logit_loss("dist")(STUDENT[:1], TEACHER[:1], LABELS[:1])
    assert logit_loss("dist", intra_class=0.0)(STUDENT[:1], TEACHER[:1], LABELS[:1]).shape == (1,)


def test_dkd_with_the_probability_of_the_others_for_its_weight_is_hintons() -> None:
    hinton = categorical_kl(STUDENT, TEACHER, 4.0)
    others = 1 - torch.softmax(TEACHER / 4, 1).gather(1, LABELS[:, None]).squeeze(1)
    two, among = (logit_loss("dkd", target=a, others=b)(STUDENT, TEACHER, LABELS) for a, b in ((1.0, 0.0), (0.0, 1.0)))
    torch.testing.assert_close(two + others * among, hinton, rtol=1e-10, atol=1e-12)


def test_standardised_knows_no_shift_and_no_scale() -> None:
    loss = logit_loss("standardised")
    torch.testing.assert_close(
        loss(7 * STUDENT + 3, TEACHER, LABELS), loss(STUDENT, 5 * TEACHER - 1, LABELS), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(loss(5 * TEACHER + 2, TEACHER, LABELS), torch.zeros(B).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", sorted(set(LOGIT_LOSSES) - {"ofa", "mse"}))
def test_the_teachers_own_logits_cost_nothing(kind: str) -> None:
    torch.testing.assert_close(logit_loss(kind)(TEACHER, TEACHER, LABELS), torch.zeros(B).double(), rtol=0, atol=1e-9)


class Squared:
    """Squared difference of the label's logit alone."""

    reads_labels = True

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(len(labels))
        return self.factor * (student - teacher.detach())[rows, labels].square()


def test_loss_of_ones_own_gets_its_options() -> None:
    loss = logit_loss("callable", reference=f"{__name__}:Squared", options={"factor": 2.0})
    actual = loss(torch.tensor([[1.0, 5.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([1]))
    assert actual.tolist() == [18.0]


def test_callable_that_returns_no_loss_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="builtins:dict returned a dict"):
        logit_loss("callable", reference="builtins:dict", options={})
