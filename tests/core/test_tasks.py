"""What a classification costs, and how good it is, by hand."""

import pytest
import torch

from kd_hpo.config.task import Classification as Settings
from kd_hpo.core.tasks import TASKS, Classification, task

OUTPUT = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64).log1p()  # 1/5 and 4/5; 2/3 and 1/3; halves
LABELS = torch.tensor([1, 1, 0])
COSTS = torch.tensor([5 / 4, 3.0, 2.0], dtype=torch.float64).log()


@pytest.mark.parametrize(("reduction", "expected"), [("none", COSTS), ("mean", COSTS.mean()), ("sum", COSTS.sum())])
def test_loss_is_cross_entropy_of_each_example(reduction: str, expected: torch.Tensor) -> None:
    torch.testing.assert_close(Classification(2).loss(OUTPUT, LABELS, reduction), expected)  # type: ignore[arg-type]


def test_accuracy_of_batches_together_is_that_of_their_summed_statistics() -> None:
    of = Classification(2)
    first, second = of.statistics(OUTPUT[:1], LABELS[:1]), of.statistics(OUTPUT[1:], LABELS[1:])
    assert of.metrics(first)["accuracy"] == 1
    assert of.metrics(second)["accuracy"] == 1 / 2  # the tie goes to the first class, which is the label's
    assert of.metrics(first + second)["accuracy"].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 3, 4, 4), (torch.zeros(2, 3), torch.zeros(2, 3)), {"x": 1}])
def test_output_that_is_no_matrix_of_logits_is_refused(wrong: object) -> None:
    assert "(B, K)" in (Classification(3).refuses(wrong) or "")
    assert Classification(3).refuses(torch.zeros(2, 3)) is None


def test_settings_and_task_name_the_same_metric() -> None:
    assert task(Settings().kind, classes=3).metric == Settings.goal.metric
    assert set(TASKS) == {Settings().kind}
