"""Any two networks: steps of learning, lambda included, over pairs of families that have nothing in common."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kd_hpo.config.load import with_settings
from kd_hpo.config.trial import Network, TrialConfig
from kd_hpo.config.weightings import LearnedWeights
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

SMALL = {"stem": "small"}
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}
MIXER = {"patch_size": 8, "embed_dim": 16, "num_blocks": 3}
PLAIN = Network(name="plain_conv", arguments={"channels": [4, 8], "hidden": 8})
RESNET = Network(name="resnet8x4")
PAIRS = {
    "plain to plain, another depth": (Network(name="plain_conv"), PLAIN),
    "cifar resnet to plain": (RESNET, PLAIN),
    "wrn to cifar vgg": (Network(name="wrn_16_1"), Network(name="vgg8")),
    "plain to cifar resnet": (Network(name="plain_conv"), Network(name="resnet20")),
    "resnet18 to mobilenet v2": (
        Network(name="torchvision/resnet18", arguments=SMALL),
        Network(name="mobilenet_v2", arguments=SMALL),
    ),
    "resnet20 to mobilenet v3": (Network(name="resnet20"), Network(name="mobilenet_v3_small", arguments=SMALL)),
    "resnet20 to shufflenet": (Network(name="resnet20"), Network(name="shufflenet_v2_x0_5", arguments=SMALL)),
    "squeezenet to plain": (Network(name="squeezenet1_1"), PLAIN),
    "regnet to plain": (Network(name="regnet_y_400mf", arguments=SMALL), PLAIN),
    "vit to plain": (Network(name="timm/vit_tiny_patch16_224", arguments=VIT), PLAIN),
    "vit to cifar resnet": (Network(name="timm/vit_tiny_patch16_224", arguments=VIT), RESNET),
    "plain to mixer": (Network(name="plain_conv"), Network(name="timm.models:MlpMixer", arguments=MIXER)),
    "mixer to vit": (
        Network(name="timm.models:MlpMixer", arguments=MIXER),
        Network(name="timm/vit_tiny_patch16_224", arguments=VIT),
    ),
    "swin (channels last) to plain": (Network(name="torchvision/swin_t"), PLAIN),
    "plain to two lines of one's own": (PLAIN, Network(name="tests.trial.own:two_layers", arguments={"hidden": 8})),
}


def coloured_digits() -> list[tuple[torch.Tensor, int]]:
    """120 noisy images of 3 x 32 x 32 in four classes: what colour they are."""
    random, images = np.random.default_rng(0), []
    for label in np.arange(120) % 4:
        image = random.integers(0, 90, (3, 32, 32))
        image[label % 3] += 100 + 60 * (label == 3)
        images.append((torch.from_numpy(np.minimum(image, 255).astype(np.uint8)), int(label)))
    return images


def trial_of(teacher: Network, student: Network) -> TrialConfig:
    return digits_trial(
        data={"kind": "callable", "callable": "tests.trial.test_steps_network_pairs:coloured_digits"},
        splits={"train": 64, "outer": 24, "val": 8, "test": 24},
        teacher={"network": teacher, "layers": "auto", "training": None, "accept_weak": True},
        student={"network": student, "layers": "auto"},
        training={"epochs": 1, "batch_size": 16},
        weighting=LearnedWeights(evidence=False, every=1, warmup=0, hold=0, outer_batch=16),
        pairs={"balance": {"kind": "gradient", "measures": 1, "every": 1}},
    )


LARGE = {
    "resnet18 to mobilenet v2",
    "swin (channels last) to plain",
    "vit to cifar resnet",
    "wrn to cifar vgg",
    "resnet20 to shufflenet",
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in PAIRS])
def test_two_steps_of_learning(cache: Path, name: str) -> None:
    config = trial_of(*PAIRS[name])
    prepared = prepare(config, cache)
    trial = start_trial(config, prepared)
    T, S = prepared.plan.shape
    assert T >= 2, prepared.plan
    assert S >= 1, prepared.plan
    before = {name: p.detach().clone() for name, p in trial.parameters.items()}
    with trial.student:
        train_step(trial, prepared.splits.train[:16])  # some heads start at zero: no gradient passes them in the first step
        losses = train_step(trial, prepared.splits.train[16:32])
    assert trial.pairs is not None
    assert losses.stacked().isfinite().all()
    assert losses.pairs != 0
    assert all(p.isfinite().all() for p in trial.parameters.values())
    assert any(not torch.equal(before[name], p) for name, p in trial.parameters.items())
    weights = trial.pairs.weighting.weights(0)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert (weights - weights.mean()).abs().max() > 1e-4  # every pair of layers was told from the others


@pytest.mark.parametrize("loss", ["gaussian", "hint", "infonce", "attention", "similarity", "pkt", "ifm"])
def test_every_loss_between_a_transformer_and_a_convolutional_network(cache: Path, loss: str) -> None:
    config = with_settings(trial_of(*PAIRS["vit to plain"]), {"pairs.loss": {"kind": loss}, "pairs.unserved": "leave_out"})
    trial = start_trial(config, prepare(config, cache))
    with trial.student:
        losses = train_step(trial, trial.prepared.splits.train[:16])
    assert losses.stacked().isfinite().all()
    assert losses.pairs != 0
