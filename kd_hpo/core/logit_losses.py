"""Every loss that compares the logits of teacher and student, by name.

A new one is a line here and a pass of its contract test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.callables import import_callable
from kd_hpo.core.normalisation import inverse_norm
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


@dataclass(frozen=True)
class Standardised:
    """Distillation of logits with each example's own mean taken off, over their deviation (Sun et al. 2024, algorithm 1)."""

    temperature: float = 2.0
    reads_labels = False

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return categorical_kl(_standardised(student), _standardised(teacher.detach()), self.temperature)


@dataclass(frozen=True)
class Decoupled:
    """The two parts of distillation with weights of their own (DKD, Zhao et al. 2022, eq. 7).

    target  alpha, of KL between (label, all others), two probabilities
    others  beta, of KL among the others, renormalised without the label: Hinton's form has the others' probability for it
    """

    temperature: float = 4.0
    target: float = 1.0
    others: float = 8.0
    reads_labels = True

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        of_student, of_teacher = (logits / self.temperature for logits in (student, teacher.detach()))
        two = _kl(_label_and_others(of_student, labels), _label_and_others(of_teacher, labels))
        among = _kl(*(F.log_softmax(_others(logits, labels), dim=1) for logits in (of_student, of_teacher)))
        return self.temperature**2 * (self.target * two + self.others * among)


@dataclass(frozen=True)
class Correlation:
    """One less Pearson's correlation of softened probabilities (DIST, Huang et al. 2022, eq. 6-10).

    inter_class  beta, of the correlation over an example's classes
    intra_class  gamma, of that over the batch's examples, the mean over classes

    The second couples the batch: it is one number, which every example has beside its own, so that the mean over the batch is
    the published loss. Raises ConfigError for a batch of one example.
    """

    temperature: float = 4.0
    inter_class: float = 1.0
    intra_class: float = 1.0
    reads_labels = False

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        if self.intra_class and len(student) == 1:
            raise ConfigError(
                "kd.kind dist compares each class over a batch's examples, and a batch has one; give batches of two or more "
                "(training.batch_size, weighting.outer_batch), or kd.intra_class: 0"
            )
        p, q = (F.softmax(logits / self.temperature, dim=1) for logits in (student, teacher.detach()))
        over_classes = _products(p, q, dim=1).sum(1)
        over_examples = _products(p, q, dim=0).sum(0).mean()
        return self.temperature**2 * (self.inter_class * (1 - over_classes) + self.intra_class * (1 - over_examples))


@dataclass(frozen=True)
class SquaredLogits:
    """The squared difference of the logits as they are, the mean over classes (Ba & Caruana 2014; Kim et al. 2021, eq. 3)."""

    reads_labels = False

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return (student - teacher.detach()).square().mean(1)


@dataclass(frozen=True)
class TargetEnhanced:
    """Cross-entropy with a teacher whose label counts more (OFA, Hao et al. 2023, eq. 6): no constant is taken off.

    power  gamma, of the teacher's probabilities, the label's plus 1
    """

    temperature: float = 1.0
    power: float = 1.5
    reads_labels = True

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return target_enhanced(student, teacher, F.one_hot(labels, student.shape[1]).to(student), self.temperature, self.power)


LOGIT_LOSSES: dict[str, Callable[..., LogitLoss]] = {
    "hinton": Hinton,
    "standardised": Standardised,
    "dkd": Decoupled,
    "dist": Correlation,
    "mse": SquaredLogits,
    "ofa": TargetEnhanced,
}


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


def target_enhanced(student: Tensor, teacher: Tensor, shares: Tensor, temperature: float, power: float) -> Tensor:
    """The loss of OFA (Hao et al. 2023, eq. 6): -sum_k ((q_k + y_k)^power - y_k) log p_k, p and q the softened probabilities.

    student, teacher  (..., K) logits; the teacher's are a constant
    shares            (..., K) y, of sum 1: 1 at the label, or its share where images are mixed
    returns           (...)
    """
    log_p = F.log_softmax(student / temperature, dim=-1)
    q = F.softmax(teacher.detach() / temperature, dim=-1)
    return -(((q + shares) ** power - shares) * log_p).sum(-1)


def _standardised(logits: Tensor) -> Tensor:
    """(B, K) less its mean over K, over its deviation there (that of a sample, by K - 1); logits that are all one stay 0."""
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(logits.shape[1] - 1, 1)
    flat = variance <= torch.finfo(logits.dtype).tiny
    return torch.where(flat, 0.0, centred / (torch.where(flat, 1.0, variance).sqrt() + 1e-7))


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits (B, K) without that of the label: (B, K - 1)."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, places + (places >= labels.unsqueeze(1)))


def _label_and_others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithms of two probabilities, that of the label and that of all others: (B, K) -> (B, 2)."""
    two = torch.cat([logits.gather(1, labels.unsqueeze(1)), _others(logits, labels).logsumexp(1, keepdim=True)], 1)
    return F.log_softmax(two, dim=1)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of logarithms of probabilities, (B, K) -> (B,)."""
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)


def _products(p: Tensor, q: Tensor, dim: int) -> Tensor:
    """The products (B, K) whose sums over `dim` are Pearson's correlations of p and q along it; 0 where one does not vary."""
    a, b = (x - x.mean(dim, keepdim=True) for x in (p, q))
    return a * b * inverse_norm(a.square().sum(dim, keepdim=True)) * inverse_norm(b.square().sum(dim, keepdim=True))
