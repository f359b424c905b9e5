"""Loss and accuracy of a network on a split, against numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_hpo.core.tasks import Classification
from kd_hpo.data.batches import ImageBatches
from kd_hpo.data.datasets import load_digits
from kd_hpo.trial.evaluate import agreement, score

SOME = np.arange(3, 1797, 3)  # 598 images: more than are scored at once
OTHERS = np.arange(1, 1797, 3)


@pytest.fixture(scope="module")
def batches(cache: Path) -> ImageBatches:
    return ImageBatches(load_digits(cache), np.arange(0, 1797, 3), torch.device("cpu"))


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    """One linear layer that answers by the class means: right for most digits and wrong for some."""
    from sklearn.datasets import load_digits as read

    digits = read()
    means = np.stack([digits.data[digits.target == label].mean(0) for label in range(10)]) / 16
    layer = nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = torch.tensor(means).float(), torch.tensor(-(means**2).sum(1) / 2).float()
    return nn.Sequential(nn.Flatten(), layer, nn.Dropout(0.9))


def by_hand(batches: ImageBatches, network: nn.Sequential, images: np.ndarray) -> tuple[float, float]:
    """Mean of -log softmax(logits)[label], and the share of the images whose largest logit is the label's."""
    labels = np.asarray(batches.images.labels)[images]
    pixels = np.asarray(batches.images.images)[images].reshape(len(images), -1).astype(float)
    x = (pixels - batches.mean.item()) / batches.std.item()
    weight, bias = (p.detach().double().numpy() for p in network[1].parameters())
    logits = x @ weight.T + bias
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return float((log_sum - logits[np.arange(len(images)), labels]).mean()), float((logits.argmax(1) == labels).mean())


@pytest.mark.parametrize("images", [SOME, OTHERS, SOME[:1], SOME[:513]], ids=["some", "others", "one", "a chunk and one"])
def test_loss_is_the_mean_cross_entropy_and_accuracy_the_share_that_is_right(
    batches: ImageBatches, network: nn.Sequential, images: np.ndarray
) -> None:
    loss, accuracy = by_hand(batches, network, images)
    found = score(network, Classification(10), batches, images)
    assert found.loss == pytest.approx(loss, rel=1e-4)
    assert found.value == pytest.approx(accuracy, abs=1e-9)


def test_these_images_can_be_told_from_others(batches: ImageBatches, network: nn.Sequential) -> None:
    some, others = score(network, Classification(10), batches, SOME), score(network, Classification(10), batches, OTHERS)
    assert 0.1 < some.value < 1 and some.value != others.value and some.loss != others.loss


def test_a_network_is_scored_in_eval_mode_and_left_as_it_was(batches: ImageBatches, network: nn.Sequential) -> None:
    """Dropout would make nine of ten logits 0, another nine each time."""
    network.train()
    network[1].eval()
    scores = [score(network, Classification(10), batches, SOME) for _ in range(2)]
    assert [module.training for module in network] == [True, False, True]
    network.eval()
    assert scores == [score(network, Classification(10), batches, SOME)] * 2
    assert all(parameter.grad is None for parameter in network.parameters())


def test_of_logits_and_features_the_logits_count(batches: ImageBatches, network: nn.Sequential) -> None:
    class WithFeatures(nn.Module):
        def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.of = of

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            assert not torch.is_grad_enabled()
            return self.of(x), {"x": x}

    network.eval()
    assert score(WithFeatures(network), Classification(10), batches, SOME) == score(network, Classification(10), batches, SOME)


def test_agreement_takes_no_pass_of_its_own_and_is_of_these_images_in_their_order(
    batches: ImageBatches, network: nn.Sequential
) -> None:
    """Of a teacher that gives nothing but zeros: KL of uniform shares to the softmax."""
    passes: list[int] = []
    network.eval()
    hook = network.register_forward_hook(lambda *_: passes.append(1))
    try:
        alone = score(network, Classification(10), batches, SOME)
        often = len(passes)
        with_teacher = score(network, Classification(10), batches, SOME, torch.zeros(len(SOME), 10))
    finally:
        hook.remove()
    assert len(passes) == 2 * often
    assert (with_teacher.loss, with_teacher.metrics, alone.agreement) == (alone.loss, alone.metrics, None)
    log_q = torch.log_softmax(network(batches.inputs(SOME)).detach().double(), 1)
    assert with_teacher.agreement == pytest.approx(float((np.log(1 / 10) - log_q).mean(1).mean()), rel=1e-5)
    own = network(batches.inputs(SOME)).detach()
    assert agreement(network, Classification(10), batches, SOME, own) == pytest.approx(0, abs=1e-6)
    assert agreement(network, Classification(10), batches, SOME, own.flip(0)) > 0.1
