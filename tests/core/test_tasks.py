"""What a classification costs, and how good it is, by hand."""

import numpy as np
import pytest
import torch

from kd_hpo.config.task import Classification as Settings
from kd_hpo.core.tasks import TASKS, Classification, task, training_loss
from kd_hpo.errors import ConfigError

OUTPUT = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64).log1p()  # 1/5 and 4/5; 2/3 and 1/3; halves
LABELS = torch.tensor([1, 1, 0])
COSTS = torch.tensor([5 / 4, 3.0, 2.0], dtype=torch.float64).log()


@pytest.mark.parametrize(("reduction", "expected"), [("none", COSTS), ("mean", COSTS.mean()), ("sum", COSTS.sum())])
def test_loss_is_cross_entropy_of_each_example(reduction: str, expected: torch.Tensor) -> None:
    torch.testing.assert_close(Classification(2).loss(OUTPUT, LABELS, reduction), expected)  # type: ignore[arg-type]


def test_distance_is_kl_to_the_teacher_by_hand() -> None:
    """Of a teacher that says 1/2, 1/2; 2/3, 1/3 as the network does; and never the second class."""
    teacher = torch.tensor([[0.5, 0.5], [2 / 3, 1 / 3], [1.0, 0.0]], dtype=torch.float64).log()
    expected = torch.tensor([0.5 * np.log(0.5 / 0.2) + 0.5 * np.log(0.5 / 0.8), 0.0, np.log(1 / 0.5)], dtype=torch.float64)
    torch.testing.assert_close(Classification(2).distance(OUTPUT, teacher), expected, rtol=1e-12, atol=1e-15)
    other_way = Classification(2).distance(teacher[:2], OUTPUT[:2])
    assert not torch.allclose(other_way[0], expected[0])


def test_a_task_without_labels_to_smooth_is_refused() -> None:
    class Other(Classification):
        def loss(self, output: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:  # type: ignore[override]
            return output.sum()

    assert training_loss(Other(2), 0.0)(OUTPUT, LABELS) == OUTPUT.sum()
    with pytest.raises(ConfigError, match="Other cannot smooth"):
        training_loss(Other(2), 0.1)


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
    for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert Settings(metric=metric).goal.metric in Classification(2).metrics(torch.ones(3, 2))


def by_hand(answers: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float]:
    """From the confusion matrix: the mean diagonal of its rows, each divided by its sum; F1 from precision and recall."""
    confusion = np.zeros((classes, classes))
    for label, answer in zip(labels, answers, strict=True):
        confusion[label, answer] += 1
    recalls, scores = [], []
    for k in range(classes):
        there, said = confusion[k].sum(), confusion[:, k].sum()
        if there:
            recalls.append(confusion[k, k] / there)
        if there or said:
            precision, recall = (confusion[k, k] / n if n else 0.0 for n in (said, there))
            scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return {
        "accuracy": float(np.trace(confusion) / len(labels)),
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_f1": float(np.mean(scores)),
    }


@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_those_of_the_confusion_matrix(seed: int) -> None:
    """Of an uneven data set, with a class that is never there and, at one seed, one that is never answered either."""
    random, classes = np.random.default_rng(seed), 6
    labels = random.choice(classes, 80, p=[0.7, 0.1, 0.1, 0.05, 0.05, 0])
    output = random.normal(size=(80, classes)) + 2 * np.eye(classes)[labels]
    if seed == 0:
        output[:, 5] = -9
    of, logits, targets = Classification(classes), torch.from_numpy(output), torch.from_numpy(labels)
    statistics = sum((of.statistics(x, y) for x, y in zip(logits.split(17), targets.split(17), strict=True)), torch.zeros(()))
    found = {name: value.item() for name, value in of.metrics(statistics).items()}
    assert found == pytest.approx(by_hand(output.argmax(1), labels, classes), rel=1e-12)


def test_always_the_same_answer_is_seen_by_the_balanced_metrics_alone() -> None:
    of, labels = Classification(3), torch.tensor([0] * 8 + [1, 2])
    found = of.metrics(of.statistics(torch.tensor([[1.0, 0, 0]]).expand(10, -1), labels))
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"accuracy": 0.8, "balanced_accuracy": 1 / 3, "macro_f1": (2 * 8 / 18) / 3}
    )


def test_a_class_weighs_its_examples_losses() -> None:
    weighted = Classification(2, class_weights=(0.5, 3.0)).loss(OUTPUT, LABELS, "none")
    torch.testing.assert_close(weighted, COSTS * torch.tensor([3.0, 3.0, 0.5], dtype=torch.float64))
    with pytest.raises(ConfigError, match="2 numbers, and the data has 3 classes"):
        Classification(3, class_weights=(0.5, 3.0))


@pytest.mark.parametrize(
    ("metric", "value", "knows"),
    [
        ("accuracy", 0.8, False),
        ("accuracy", 0.82, False),
        ("accuracy", 0.95, True),
        ("balanced_accuracy", 0.36, False),
        ("balanced_accuracy", 0.6, True),
    ],
)
def test_whoever_knows_is_better_than_the_commonest_class(metric: str, value: float, knows: bool) -> None:
    assert Classification(3, metric).knows(value, torch.tensor([0] * 80 + [1, 2] * 10)) == knows


def test_probabilities_are_no_logits() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert "probabilities" in (Classification(3).refuses(logits.softmax(1)) or "")
    assert "probabilities" in (Classification(3).refuses(logits.bfloat16().softmax(1)) or "")
    for fine in (logits, logits.log_softmax(1), logits.sigmoid(), logits.relu()):
        assert Classification(3).refuses(fine) is None
