"""What every task must keep."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from kd_hpo.core.tasks import Task

MakeTask = Callable[[int], Task]
CLASSES, B = 4, 8


def saying(words: str) -> Callable[[str], str]:
    """The message of a comparison that fails, before its numbers."""
    return lambda numbers: f"{words}\n{numbers}"


class TaskContract:
    """What the rest of kd_hpo relies on in a task; kd_hpo.core.tasks.Task says it in words.

    Subclass it in a file of tests, say how the task is made from a number of classes, and draw labels (B, ...) of it:

        class TestMyTask(TaskContract):
            task = MyTask

            def labels(self, count, generator):
                return torch.randint(4, (count,), generator=generator)
    """

    task: ClassVar[MakeTask]

    def labels(self, count: int, generator: torch.Generator) -> Tensor:
        """Labels of so many examples, of four classes where there are any."""
        raise NotImplementedError("a suite of a task draws labels of it: see TaskContract")

    @pytest.fixture
    def made(self) -> Task:
        make: MakeTask | None = getattr(type(self), "task", None)
        assert callable(make), f"{type(self).__name__} does not say how its task is made: add `task = MyTask`"
        return make(CLASSES)

    @pytest.fixture
    def batch(self, made: Task) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        output = torch.randn(B, made.outputs, dtype=torch.float64, generator=generator)
        return output, self.labels(B, generator)

    def test_takes_its_own_outputs_and_no_others(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        assert made.refuses(batch[0]) is None, f"it refuses an output (B, {made.outputs}), which it asks for"
        for wrong in ((batch[0], batch[0]), {"logits": batch[0]}, None):
            words = made.refuses(wrong)
            assert words and len(words.split()) > 2, f"it does not say what it wants instead of a {type(wrong).__name__}"

    def test_reductions_are_those_of_each_example(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        each = made.loss(*batch, "none")
        assert each.shape == (B,), "the loss without a reduction is not (B,)"
        for name, expected in (("mean", each.mean()), ("sum", each.sum())):
            torch.testing.assert_close(
                made.loss(*batch, name),  # type: ignore[arg-type]
                expected,
                msg=saying(f"{name} is not that of the examples' losses"),
            )

    def test_an_example_has_its_own_loss(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        output, labels = batch
        torch.testing.assert_close(
            torch.cat([made.loss(output[n : n + 1], labels[n : n + 1], "none") for n in range(B)]),
            made.loss(output, labels, "none"),
            msg=saying("an example's loss depends on the others of its batch"),
        )

    def test_the_distance_is_one_number_an_example_and_its_own(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        output, teacher = batch[0], batch[0].flip(0) / 2
        each = made.distance(output, teacher)
        assert each.shape == (B,), "the distance to a teacher is not (B,)"
        assert each.isfinite().all() and (each >= -1e-9).all(), "a distance is below 0 or not finite"
        torch.testing.assert_close(
            torch.cat([made.distance(output[n : n + 1], teacher[n : n + 1]) for n in range(B)]),
            each,
            msg=saying("an example's distance depends on the others of its batch"),
        )

    def test_the_distance_is_nothing_to_oneself_and_grows_away_from_it(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        output = batch[0]
        nothing = torch.zeros(B, dtype=output.dtype)
        torch.testing.assert_close(
            made.distance(output, output), nothing, rtol=0, atol=1e-9, msg=saying("two that say the same are not at distance 0")
        )
        step = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
        near, far = (made.distance(output + size * step, output) for size in (0.1, 0.2))
        assert (near > 0).all(), "an output that differs from the teacher's is at distance 0"
        assert (far > near).all(), "further away in the same direction is no larger distance"

    def test_statistics_of_batches_add_up(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        output, labels = batch
        whole = made.metrics(made.statistics(output, labels))
        parts = made.statistics(output[:3], labels[:3]) + made.statistics(output[3:], labels[3:])
        assert made.metric in whole, f"metrics has no {made.metric!r}, the metric that studies go by"
        for name, value in made.metrics(parts).items():
            torch.testing.assert_close(value, whole[name], msg=saying(f"{name} of two batches is not that of all"))

    def test_the_same_output_for_all_knows_nothing(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        for row in batch[0]:
            statistics = made.statistics(row.expand(B, -1), batch[1])
            value = float(made.metrics(statistics)[made.metric])
            assert not made.knows(value, batch[1]), f"an output that is the same for all, with {made.metric} {value:g}, knows"

    def test_gradient_steps_lower_the_loss(self, made: Task, batch: tuple[Tensor, Tensor]) -> None:
        output, labels = batch[0].requires_grad_(), batch[1]
        before = made.loss(output, labels)
        (gradient,) = torch.autograd.grad(before, output)
        assert gradient.any(), "the loss has no gradient in the output"
        after = made.loss(output - 1e-3 * gradient, labels)
        assert after < before, "a small step against the gradient raises the loss"
