"""A teacher that was trained at another size and normalisation keeps its accuracy, and says what it says of its own input."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.v2 import functional

from kd_hpo.config.load import with_settings
from kd_hpo.config.trial import TrialConfig
from kd_hpo.data.batches import ImageBatches, Indices
from kd_hpo.data.splits import Splits
from kd_hpo.data.teacher_targets import CachedTargets, TeacherReader
from kd_hpo.errors import ConfigError
from kd_hpo.nets.weights import save_weights
from kd_hpo.trial.data import load_data
from kd_hpo.trial.parts import Prepared, build_teacher
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.teacher_input import size_of_input
from tests.conftest import digits_trial

SIDE, MEAN, STD = 20, 0.75, 0.25


class Strided(nn.Sequential):
    """A network that is another one at another size."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 12, 4, 2), nn.ReLU(), nn.Conv2d(12, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


def strided(input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    network = Strided()
    network(torch.zeros(1, *input_shape))
    return network


def as_its_script_does(batches: ImageBatches, images: Indices) -> torch.Tensor:
    """As another training script reads the pixels: resized, scaled to 1, normalised."""
    pixels = torch.from_numpy(batches.images.images[images]).float() / 255
    return (functional.resize(pixels, [SIDE, SIDE], functional.InterpolationMode.BICUBIC) - MEAN) / STD


def taught(**teacher: Any) -> TrialConfig:
    changes = {f"teacher.{name}": value for name, value in teacher.items()}
    named = {"teacher.network": {"name": f"{__name__}:strided"}, "teacher.layers": ("0", "2"), "teacher.training": None}
    return with_settings(digits_trial(), named | changes)


def given(weights: Path, **teacher: Any) -> TrialConfig:
    own = {"input": {"size": SIDE, "interpolation": "bicubic"}, "normalise": {"mean": MEAN, "std": STD}}
    return taught(weights=weights, **{**own, **teacher})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, ImageBatches, Splits]:
    """Trained outside of kd_hpo."""
    folder = tmp_path_factory.mktemp("teacher")
    batches, splits = load_data(digits_trial(), folder, lambda _: None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = strided((1, SIDE, SIDE), 10)
    x, labels = as_its_script_does(batches, splits.train), batches.labels(splits.train)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    save_weights(network.state_dict(), folder / "teacher.safetensors")
    return folder / "teacher.safetensors", network, batches, splits


@pytest.fixture(scope="module")
def ready(trained: tuple[Path, nn.Module, ImageBatches, Splits], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(given(trained[0]), tmp_path_factory.mktemp("cache"))


def test_it_keeps_its_accuracy(trained: tuple[Path, nn.Module, ImageBatches, Splits], ready: Prepared) -> None:
    _, network, batches, splits = trained
    with torch.no_grad():
        answers = network(as_its_script_does(batches, splits.val)).argmax(1)
    accuracy = (answers == batches.labels(splits.val)).float().mean().item()
    assert ready.teacher.val.value == pytest.approx(accuracy) and accuracy > 0.8
    assert "resized to 20x20 (bicubic)" in str(ready.teacher.reads)
    with pytest.raises(ConfigError):  # at the student's size it is no network that has these weights
        prepare(given(trained[0], input="data"), ready.cache)


def test_cached_features_are_those_of_its_own_input(
    trained: tuple[Path, nn.Module, ImageBatches, Splits], ready: Prepared
) -> None:
    _, network, batches, splits = trained
    assert isinstance(ready.targets, CachedTargets)
    images = splits.train[:7]
    with torch.no_grad():
        maps = network[0](as_its_script_does(batches, images))
        logits = network(as_its_script_does(batches, images))
    said = ready.targets.batch(images, torch.empty(0), ready.plan.sizes)
    torch.testing.assert_close(said.logits, logits, rtol=1e-3, atol=1e-3)
    assert [(shape.height, shape.width) for shape in ready.plan.teacher] == [(9, 9), (4, 4)] and maps.shape[2:] == (9, 9)
    # another size is another teacher, whose features are kept apart
    other = prepare(given(trained[0], input={"size": [SIDE, SIDE], "interpolation": "bilinear"}, accept_weak=True), ready.cache)
    assert not torch.allclose(other.targets.logits(images, torch.empty(0)), logits, rtol=1e-3, atol=1e-3)


def test_it_reads_each_view_that_the_student_sees(trained: tuple[Path, nn.Module, ImageBatches, Splits], ready: Prepared) -> None:
    config = given(trained[0]).replace(augment=("flip", "crop", {"name": "CutMix"}))
    found = prepare(config, ready.cache)
    assert isinstance(found.targets, TeacherReader)
    batches = found.batches
    seen = start_trial(config, found).view_of(found.splits.train[:9])
    pixels = (seen.x * batches.std + batches.mean) / 255
    resized = (functional.resize(pixels, [SIDE, SIDE], functional.InterpolationMode.BICUBIC) - MEAN) / STD
    with torch.no_grad():
        expected = trained[1](resized)
    torch.testing.assert_close(found.targets.logits(found.splits.train[:9], seen.x), expected, rtol=1e-3, atol=1e-3)


def test_one_that_is_trained_here_is_trained_at_its_own_size(cache: Path) -> None:
    told: list[str] = []
    small = with_settings(digits_trial(), {"teacher.input": {"size": 12}, "teacher.training.epochs": 2})
    found = prepare(small, cache, told.append)
    assert [(shape.height, shape.width) for shape in found.plan.teacher[:2]] == [(6, 6), (3, 3)]  # halves and quarters
    assert any("reads" in words and "resized to 12x12 (bilinear)" in words for words in told)
    assert found.teacher.weights != prepare(with_settings(small, {"teacher.input": "data"}), cache).teacher.weights


NAMED = [("torchvision/resnet18", True, (224, 224), "bilinear"), ("torchvision/efficientnet_b3", True, (300, 300), "bicubic")]
NAMED += [
    ("timm/resnet18", True, (224, 224), "bicubic"),
    ("timm/vit_base_patch16_384", "augreg_in21k_ft_in1k", (384, 384), "bicubic"),
]


@pytest.mark.parametrize(("name", "pretrained", "size", "interpolation"), NAMED)
def test_a_pretrained_one_reads_what_its_library_says(
    cache: Path, name: str, pretrained: bool | str, size: tuple[int, int], interpolation: str
) -> None:
    batches, _ = load_data(digits_trial(), cache, lambda _: None)
    network = {"name": name, "pretrained": pretrained}
    assert size_of_input(taught(network=network).teacher, batches) == (size, interpolation)
    assert size_of_input(taught(network=network, input="data").teacher, batches) is None
    assert size_of_input(taught(network=network | {"arguments": {"stem": "small"}}).teacher, batches) is None
    assert size_of_input(taught(network=network, input={"size": 8}).teacher, batches) is None  # the images' own


def test_mean_and_std_go_with_the_input_of_the_weights_unless_the_study_says_otherwise(cache: Path) -> None:
    batches, _ = load_data(digits_trial(), cache, lambda _: None)
    network = {"name": "torchvision/resnet18"}
    _, reads = build_teacher(taught(network=network, input="weights"), batches)
    assert reads.mean == pytest.approx((255 * (0.485 + 0.456 + 0.406) / 3,)) and "resized to 224x224" in str(reads)
    _, reads = build_teacher(taught(network=network, input="weights", normalise="none"), batches)
    assert str(reads) == "pixels / 255 (none), resized to 224x224 (bilinear)"
    with pytest.raises(ConfigError, match=r"teacher\.input is weights"):
        build_teacher(taught(input="weights"), batches)
