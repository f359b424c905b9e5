"""The inner and the outer loss, against their formula written out in float64."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.core.logit_losses import Hinton, categorical_kl
from kd_hpo.core.objective import Objective, PairTerm
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.core.tasks import Classification
from kd_hpo.data.augment import View

B, K = 6, 4


@dataclass(frozen=True)
class OfLabel:
    """The squared logit of the label: a loss that reads labels."""

    reads_labels = True

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return student.gather(1, labels[:, None]).squeeze(1).square()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


OUTPUT, TEACHER = drawn(B, K), drawn(B, K, seed=1)
PLAIN = View(torch.zeros(B), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 3, 3, 0, 1, 0]), 1.0)
MIXED = View(PLAIN.x, PLAIN.labels, PLAIN.partners, 0.25)


def objective(weight: float = 1.5, loss: Any = Hinton(3.0)) -> Objective:  # noqa: B008
    return Objective(Classification(K), loss, weight)


def constant(value: float) -> PairTerm:
    term = torch.tensor(value, dtype=torch.float64)
    return PairTerm(term, term, term.reshape(1, 1))


def test_inner_loss_is_the_sum_of_its_terms() -> None:
    found = objective().inner(OUTPUT, PLAIN, TEACHER, lambda: constant(7.0))
    task, logits = F.cross_entropy(OUTPUT, PLAIN.labels), categorical_kl(OUTPUT, TEACHER, 3.0).mean()
    torch.testing.assert_close(found.total, task + 1.5 * logits + 7.0)
    torch.testing.assert_close(
        torch.stack([found.task, found.logits, found.pairs]), torch.stack([task, logits, torch.tensor(7.0)])
    )


def test_weight_of_the_task_acts_beside_the_logits_alone() -> None:
    task, logits = F.cross_entropy(OUTPUT, PLAIN.labels), categorical_kl(OUTPUT, TEACHER, 3.0).mean()
    of_papers = Objective(Classification(K), Hinton(3.0), 0.9, 0.1)
    found = of_papers.inner(OUTPUT, PLAIN, TEACHER, lambda: constant(7.0))
    torch.testing.assert_close(found.total, 0.1 * task + 0.9 * logits + 7.0)
    torch.testing.assert_close(found.task, task)
    torch.testing.assert_close(of_papers.inner(OUTPUT, PLAIN, None, None).total, task)
    torch.testing.assert_close(of_papers.outer(OUTPUT, PLAIN, None), task)


def test_stage_of_pairs_alone_tells_the_task_and_leaves_it_out_of_the_total() -> None:
    found = objective().inner(OUTPUT, PLAIN, TEACHER, lambda: constant(7.0), labels=False)
    assert found.total == 7.0
    assert found.logits == 0
    torch.testing.assert_close(found.task, F.cross_entropy(OUTPUT, PLAIN.labels))


@pytest.mark.parametrize(("weight", "teacher"), [(0.0, TEACHER), (1.5, None)])
def test_logits_are_compared_only_with_a_weight_and_a_teacher(weight: float, teacher: Tensor | None) -> None:
    found = objective(weight, loss=None).inner(OUTPUT, PLAIN, teacher, None)  # a loss that would be called fails
    torch.testing.assert_close(found.total, F.cross_entropy(OUTPUT, PLAIN.labels))


def test_mixed_images_have_both_labels_in_the_task_and_in_a_loss_that_reads_labels() -> None:
    found = objective(2.0, OfLabel()).inner(OUTPUT, MIXED, TEACHER, None)
    own, other = (OUTPUT.gather(1, y[:, None]).square().mean() for y in (MIXED.labels, MIXED.partners))
    torch.testing.assert_close(found.logits, 0.25 * own + 0.75 * other)
    ce = 0.25 * F.cross_entropy(OUTPUT, MIXED.labels) + 0.75 * F.cross_entropy(OUTPUT, MIXED.partners)
    torch.testing.assert_close(found.total, ce + 2.0 * found.logits)


@pytest.mark.parametrize("seen", [PLAIN, MIXED], ids=["plain", "mixed"])
def test_labels_are_smoothed_in_the_inner_loss_alone(seen: View) -> None:
    smooth = Objective(Classification(K, class_weights=(1.0, 2.0, 3.0, 4.0)), None, 0.0, smoothing=0.2)  # type: ignore[arg-type]
    share, weights = seen.share, torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    hard = share * F.one_hot(seen.labels, K) + (1 - share) * F.one_hot(seen.partners, K)
    for smoothing, found in ((0.2, smooth.inner(OUTPUT, seen, None, None).total), (0.0, smooth.outer(OUTPUT, seen, None))):
        target = (1 - smoothing) * hard + smoothing / K
        torch.testing.assert_close(found, -(target * weights * F.log_softmax(OUTPUT, 1)).sum(1).mean())
    plain = Objective(Classification(K), None, 0.0, smoothing=0.2).inner(OUTPUT, seen, None, None).total  # type: ignore[arg-type]
    torch.testing.assert_close(plain, -((0.8 * hard + 0.2 / K) * F.log_softmax(OUTPUT, 1)).sum(1).mean())


def test_outer_loss_counts_agreement_once_whatever_kappa_is() -> None:
    task = F.cross_entropy(OUTPUT, PLAIN.labels)
    torch.testing.assert_close(objective().outer(OUTPUT, PLAIN, None), task)
    torch.testing.assert_close(objective().outer(OUTPUT, PLAIN, TEACHER), task + categorical_kl(OUTPUT, TEACHER, 3.0).mean())


class TestPairTerm:
    LAYERS = (LayerShape("a", 3, 1, 1), LayerShape("b", 2, 1, 1))
    WEIGHTS = torch.tensor([[0.5, 2.0], [0.0, 1.0]], dtype=torch.float64)

    @pytest.fixture
    def losses(self) -> PairMatrix:
        plan = pair_plan(self.LAYERS, self.LAYERS)
        return PairMatrix(plan, pair_loss("gaussian")).double()

    @pytest.fixture
    def features(self) -> list[Tensor]:
        return [drawn(B, layer.channels, seed=n).requires_grad_() for n, layer in enumerate(self.LAYERS)]

    @pytest.fixture
    def targets(self, losses: PairMatrix) -> Targets:
        (size,) = losses.plan.sizes
        return Targets(TEACHER, {size: drawn(B, 1, 5, seed=9)})

    def test_step_gives_the_student_the_gradient_of_the_weighted_sum_and_regressors_theirs_at_unit_weight(
        self, losses: PairMatrix, features: list[Tensor], targets: Targets
    ) -> None:
        written = PairTerm.as_written(losses, features, targets, self.WEIGHTS)
        step = PairTerm.of_step(losses, features, targets, self.WEIGHTS, None)
        torch.testing.assert_close(step.value, written.value)
        parameters = list(losses.parameters())
        unit = losses(features, targets).sum()
        expected = torch.autograd.grad(written.differentiated, features), torch.autograd.grad(unit, parameters)
        actual = torch.autograd.grad(step.differentiated, [*features, *parameters])
        torch.testing.assert_close(list(actual), [*expected[0], *expected[1]], rtol=1e-8, atol=1e-12)

    def test_weights_of_each_example_that_carry_a_gradient_are_trained_by_the_value(
        self, losses: PairMatrix, features: list[Tensor], targets: Targets
    ) -> None:
        weights = (self.WEIGHTS + torch.rand(B, 2, 2, dtype=torch.float64)).requires_grad_()
        step = PairTerm.of_step(losses, features, targets, weights, None)
        (found,) = torch.autograd.grad(step.differentiated, weights)
        torch.testing.assert_close(found, losses.sample_losses(features, targets).detach() / B, rtol=1e-8, atol=1e-12)
        assert not step.value.requires_grad

    @pytest.mark.parametrize("of_examples", [False, True])
    def test_step_can_train_regressors_and_weights_by_the_weighted_sum_as_it_stands(
        self, losses: PairMatrix, features: list[Tensor], targets: Targets, of_examples: bool
    ) -> None:
        weights = (self.WEIGHTS.expand(B, 2, 2) if of_examples else self.WEIGHTS).clone().requires_grad_()
        step = PairTerm.of_step(losses, features, targets, weights, None, unit=False)
        trained = [*features, *losses.parameters(), weights]
        matrix = losses.sample_losses(features, targets)
        expected = torch.autograd.grad((weights * matrix).sum((1, 2)).mean(), trained)
        torch.testing.assert_close(torch.autograd.grad(step.differentiated, trained), expected, rtol=1e-8, atol=1e-12)
