"""The registry of pair losses, and the losses that stand outside it, against hand-worked values and torch.distributions."""

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from kd_hpo.config import pairs as settings
from kd_hpo.core.logit_losses import categorical_kl
from kd_hpo.core.pair_losses import PAIR_LOSSES, entropy
from kd_hpo.core.plan import LayerShape

B, C = 3, 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Registry ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meet", "standardised"),
    [
        ("gaussian", True, True),
        ("hint", True, False),
        ("infonce", True, True),
        ("attention", True, False),
        ("similarity", False, False),
        ("pkt", False, False),
        ("ifm", False, False),
        ("rkd", False, False),
        ("exit", True, False),
        ("review", False, False),
        ("crd", True, False),
    ],
)
def test_what_each_loss_reads(name: str, meet: bool, standardised: bool) -> None:
    loss = PAIR_LOSSES[name]()
    assert (loss.meet, loss.standardised) == (meet, standardised)


def test_attention_serves_what_meets_at_several_positions() -> None:
    loss = PAIR_LOSSES["attention"]()
    image, vector = LayerShape("map", 4, 3, 3), LayerShape("vector", 4, 1, 1)
    assert loss.serves(image, image, (3, 3)) is None
    assert loss.serves(image, image, (1, 3)) is None
    assert "it compares positions" in str(loss.serves(image, vector, (1, 1)))


@pytest.mark.parametrize("kind", PAIR_LOSSES)
def test_every_loss_has_settings(kind: str) -> None:
    assert settings.Pairs.model_validate({"loss": {"kind": kind}}).loss.kind == kind


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"kind": "gaussian"}, {"variance": 0.7, "floor": 1e-3, "learn_variance": True, "regressor": "linear"}),
        ({"kind": "gaussian", "regressor": "mlp", "variance": {"kind": "fixed", "value": 2.0}},
         {"variance": 2.0, "learn_variance": False, "regressor": "mlp"}),
        ({"kind": "hint", "relu": False}, {"relu": False}),
        ({"kind": "infonce", "temperature": 0.5}, {"temperature": 0.5}),
        ({"kind": "attention"}, {}),
        ({"kind": "similarity"}, {}),
        ({"kind": "pkt"}, {}),
        ({"kind": "ifm"}, {}),
        ({"kind": "review"}, {}),
        ({"kind": "crd", "width": 64}, {"negatives": 16_384, "temperature": 0.07, "momentum": 0.5, "width": 64}),
        ({"kind": "exit"}, {"temperature": 1.0, "power": 1.5}),
    ],
    ids=str,
)  # fmt: skip
def test_settings_become_a_loss(given: dict[str, Any], expected: dict[str, Any]) -> None:
    config = settings.Pairs.model_validate({"loss": given}).loss
    assert config.arguments() == expected
    loss = PAIR_LOSSES[config.kind](**config.arguments())
    for name, value in expected.items():
        assert getattr(loss, name) == value
        with pytest.raises(FrozenInstanceError):
            setattr(loss, name, value)


# Categorical ---------------------------------------------------------------------------------------------------------------


def test_categorical_by_hand() -> None:
    # Temperature 2 and logits (2 ln 3, 0): p_t = (3/4, 1/4). The student is flat: KL = 3/4 ln(3/2) + 1/4 ln(1/2), times 4.
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.zeros(1, 2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert categorical_kl(student, teacher, 2.0).tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("shape", [(B, C), (1, 2)])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_categorical_is_the_divergence_at_a_temperature(temperature: float, shape: tuple[int, int]) -> None:
    student, teacher = (3 * randn(*shape)).requires_grad_(), (3 * randn(*shape, seed=1)).requires_grad_()
    p_t, p_s = Categorical(logits=teacher / temperature), Categorical(logits=student / temperature)
    actual = categorical_kl(student, teacher, temperature)
    assert actual.shape == shape[:1]
    torch.testing.assert_close(actual, temperature**2 * kl_divergence(p_t, p_s), rtol=1e-8, atol=1e-12)
    actual.sum().backward()  # type: ignore[no-untyped-call]
    # d KL / d z_s = (p_s - p_t) / temperature, times temperature^2
    expected = temperature * (p_s.probs - p_t.probs).detach()
    torch.testing.assert_close(student.grad, expected, rtol=1e-8, atol=1e-12)
    assert teacher.grad is None


def test_categorical_of_equal_logits_is_zero_and_shifts_do_not_count() -> None:
    logits = 3 * randn(B, C)
    torch.testing.assert_close(
        categorical_kl(logits + 5, logits - 7, 4.0), torch.zeros(B, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_categorical_is_not_the_mean_over_classes() -> None:
    """A known fault elsewhere: KL averaged over B * K. Classes that each stand five times say no more than once."""
    student, teacher = 3 * randn(B, C), 3 * randn(B, C, seed=1)
    expected = categorical_kl(student, teacher, 4.0)
    torch.testing.assert_close(categorical_kl(student.repeat(1, 5), teacher.repeat(1, 5), 4.0), expected, rtol=1e-8, atol=1e-12)


def test_categorical_stays_finite_for_certain_teachers() -> None:
    student = torch.tensor([[-1e3, 1e3, 0.0]], requires_grad=True)
    loss = categorical_kl(student, torch.tensor([[1e4, -1e4, 0.0]]), 1.0)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    # The teacher is sure of class 0, the student of class 1: KL = - log p_s(0) = 2000.
    torch.testing.assert_close(loss, torch.tensor([2000.0]))
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 1.0, 0.0]]))


# Entropy -------------------------------------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    assert float(entropy(torch.full((3, 2), 1 / 6))) == pytest.approx(math.log(6))
    assert float(entropy(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))) == 0
    # (1/2, 1/4, 1/4): 1/2 ln 2 + 2/4 ln 4 = 3/2 ln 2
    assert float(entropy(torch.tensor([0.5, 0.25, 0.25]))) == pytest.approx(1.5 * math.log(2))
