"""What every loss of the logits must keep."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from kd_hpo.core.logit_losses import LogitLoss

MakeLogitLoss = Callable[[], LogitLoss]
B, K = 6, 5


def drawn(seed: int, size: float = 2.0) -> Tensor:
    return size * torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


class LogitLossContract:
    """What the rest of kd_hpo relies on in a loss of the logits; kd_hpo.core.logit_losses.LogitLoss says it in words.

    Subclass it in a file of tests and say how the loss is made:

        class TestMyLoss(LogitLossContract):
            loss = MyLoss
    """

    loss: ClassVar[MakeLogitLoss]
    """Makes the loss, with settings of your choice; it takes no arguments."""

    @pytest.fixture
    def made(self) -> LogitLoss:
        make: MakeLogitLoss | None = getattr(type(self), "loss", None)
        assert callable(make), f"{type(self).__name__} does not say how its loss is made: add `loss = MyLoss`"
        made = make()
        assert isinstance(made, LogitLoss), f"a {type(made).__name__} has no reads_labels, or cannot be called"
        return made

    def test_gives_a_number_for_each_example(self, made: LogitLoss) -> None:
        losses = made(drawn(0), drawn(1), LABELS)
        assert losses.shape == (B,), "the loss is not (B,), a number for each example"
        assert losses.dtype == torch.float64, "the loss has not its inputs' type"

    @pytest.mark.parametrize("size", [0.0, 1e-3, 100.0, 1e4])
    def test_is_finite_for_flat_and_for_large_logits(self, made: LogitLoss, size: float) -> None:
        student = drawn(0, size).float().requires_grad_()
        losses = made(student, drawn(1, size).float(), LABELS)
        assert losses.isfinite().all(), f"it is not finite for logits of about {size:g}"
        (gradient,) = torch.autograd.grad(losses.sum(), student)
        assert gradient.isfinite().all(), f"its gradient is not finite for logits of about {size:g}"

    def test_no_gradient_flows_into_the_teacher(self, made: LogitLoss) -> None:
        student, teacher = drawn(0).requires_grad_(), drawn(1).requires_grad_()
        made(student, teacher, LABELS).sum().backward()
        assert teacher.grad is None or not teacher.grad.any(), "a gradient flows into the teacher: detach its logits"
        assert student.grad is not None and student.grad.any(), "no gradient flows into the student"

    def test_says_whether_labels_act_on_it(self, made: LogitLoss) -> None:
        same = torch.equal(made(drawn(0), drawn(1), LABELS), made(drawn(0), drawn(1), LABELS.flip(0)))
        assert same or made.reads_labels, "other labels give another loss, and reads_labels is false"

    def test_slopes_of_first_and_second_order_are_central_differences(self, made: LogitLoss) -> None:
        student, teacher, along = drawn(0), drawn(1), drawn(2)

        def loss(z: Tensor) -> Tensor:
            return made(z, teacher, LABELS).sum()

        def gradient(z: Tensor) -> Tensor:
            z = z.detach().requires_grad_()
            return torch.autograd.grad(loss(z), z)[0]

        h = 1e-6
        slope = torch.func.jvp(loss, (student,), (along,))[1]
        expected = (loss(student + h * along) - loss(student - h * along)) / (2 * h)
        torch.testing.assert_close(
            slope, expected, rtol=1e-5, atol=1e-8, msg=lambda numbers: f"its slope in forward mode is not its slope\n{numbers}"
        )
        z = student.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(z), z, create_graph=True)
        (second,) = torch.autograd.grad((first * along).sum(), z, allow_unused=True, materialize_grads=True)
        curved = (gradient(student + h * along) - gradient(student - h * along)) / (2 * h)
        torch.testing.assert_close(
            second,
            curved,
            rtol=1e-4,
            atol=1e-7,
            msg=lambda numbers: f"its Hessian product is not that of its gradient\n{numbers}",
        )

    def test_is_a_pure_function(self, made: LogitLoss) -> None:
        student, teacher = drawn(0), drawn(1)
        first = made(student, teacher, LABELS)
        assert torch.equal(made(student, teacher, LABELS), first), "the same inputs give another loss the second time"
        assert torch.equal(student, drawn(0)) and torch.equal(teacher, drawn(1)), "it writes into its inputs"
