"""Every loss that compares the logits of teacher and student, by name.

A new one is a line here and a pass of its contract test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor

from kd_hpo.callables import import_callable
from kd_hpo.errors import ConfigError


@runtime_checkable
class LogitLoss(Protocol):
    """How the outputs of the two networks are compared: a frozen object that holds the loss's settings."""

    @property
    def reads_labels(self) -> bool:
        """Whether the labels act on the loss: where images are mixed, it is then that of both labels, with their shares."""
        ...

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """(B,) of logits (B, K) and labels (B,); no gradient flows into the teacher."""
        ...


@dataclass(frozen=True)
class Hinton:
    """Distillation of the logits at a temperature (Hinton et al. 2015)."""

    temperature: float = 4.0
    reads_labels = False

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return categorical_kl(student, teacher, self.temperature)


LOGIT_LOSSES: dict[str, Callable[..., LogitLoss]] = {"hinton": Hinton}


def logit_loss(kind: str, **settings: Any) -> LogitLoss:
    """A loss of LOGIT_LOSSES, or, of the kind `callable`, what the callable at `reference` makes of its `options`.

    Raises ConfigError where that is no LogitLoss.
    """
    if kind != "callable":
        return LOGIT_LOSSES[kind](**settings)
    loss = import_callable(settings["reference"])(**settings["options"])
    if not isinstance(loss, LogitLoss):
        raise ConfigError(
            f"{settings['reference']} returned a {type(loss).__name__}; a logit loss is called with the student's logits, the "
            "teacher's and the labels, and has reads_labels: return an object like kd_hpo.core.logit_losses.Hinton"
        )
    return loss


def categorical_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened logits, a variational bound with a categorical q (Hinton et al. 2015).

    student, teacher  (B, K) logits; the teacher's are a constant
    returns           (B,)   temperature^2 * KL(p_t || p_s), p = softmax(z / temperature), summed over K
    """
    log_s = F.log_softmax(student / temperature, dim=1)
    log_t = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)
