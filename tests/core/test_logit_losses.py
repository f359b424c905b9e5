"""Losses of the logits by name, and of one's own."""

import pytest
import torch
from torch import Tensor

from kd_hpo.core.logit_losses import categorical_kl, logit_loss
from kd_hpo.errors import ConfigError


def test_hinton_is_the_divergence_at_its_temperature_and_reads_no_label() -> None:
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    loss = logit_loss("hinton", temperature=3.0)
    assert not loss.reads_labels
    assert torch.equal(loss(student, teacher, torch.full((5,), 99)), categorical_kl(student, teacher, 3.0))


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
