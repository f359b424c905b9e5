"""Views by torchvision's transforms and by callables of one's own: each image by its own seed, and nothing else."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from kd_hpo.data.augment import Augmentation, KeptViews, View, view
from kd_hpo.data.transforms import transform
from kd_hpo.errors import ConfigError

SHAPE = (3, 8, 8)
MEAN, STD = torch.tensor([[[120.0]], [[110.0]], [[99.5]]]), torch.tensor([[[60.0]], [[55.0]], [[1 / 3]]])
LEVELS = torch.randint(0, 256, (6, *SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
X, LABELS = (LEVELS - MEAN) / STD, torch.tensor([0, 1, 2, 0, 1, 2])
OWN = "tests.data.own_views"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(name: str, **arguments: Any) -> Any:
    return transform(name, arguments, SHAPE, MEAN, STD)


def levels(x: Tensor) -> Tensor:
    return x * STD + MEAN


STEPS = {
    "RandAugment": {"magnitude": 9, "interpolation": "bilinear"},
    "TrivialAugmentWide": {},
    "AutoAugment": {"policy": "cifar10"},
    "RandomErasing": {"p": 1.0, "value": "random"},
    "ColorJitter": {"brightness": 0.4, "hue": [-0.1, 0.1]},
    "RandomResizedCrop": {"scale": [0.2, 1.0]},  # whose size is the images'
    "RandomApply": {"transforms": [{"name": "GaussianBlur", "arguments": {"kernel_size": 3}}, {"name": "RandomCrop"}], "p": 1.0},
    f"{OWN}:brighter": {"by": 60},
    "MixUp": {"alpha": 0.8},
    "CutMix": {},
    "RandomChoice": {"transforms": [{"name": "MixUp", "arguments": {"alpha": 0.8}}, "CutMix"]},
}


@pytest.mark.parametrize("name", STEPS)
def test_a_view_is_that_of_its_generator_and_leaves_the_global_ones_alone(name: str) -> None:
    step, before = made(name, **STEPS[name]), (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    one = view(X, LABELS, [step], generator(1))
    torch.rand(3), random.random()  # what happens between does not matter
    torch.set_rng_state(before[0]), random.setstate(before[1])
    again = view(X, LABELS, [made(name, **STEPS[name])], generator(1))
    other = view(X, LABELS, [step], generator(2))
    assert torch.equal(one.x, again.x) and (one.share, one.partners.tolist()) == (again.share, again.partners.tolist())
    assert not torch.equal(one.x, other.x) and not torch.equal(one.x, X) and one.x.dtype == X.dtype
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


@pytest.mark.parametrize("name", [name for name in STEPS if name not in ("MixUp", "CutMix", "RandomChoice")])
def test_each_image_has_chance_of_its_own_whatever_stands_beside_it(name: str) -> None:
    step = made(name, **STEPS[name])
    assert isinstance(step, Augmentation)
    numbers = step.draw(6, 8, 8, generator())
    together = step.change(X, numbers)
    for i in (0, 3, 5):
        assert torch.equal(step.change(X[i : i + 1], numbers[i : i + 1])[0], together[i])
    same = step.change(X[:1].expand(6, -1, -1, -1), numbers)
    assert any(not torch.equal(same[0], other) for other in same[1:])


def test_images_come_as_bytes_and_go_as_the_network_reads_them() -> None:
    """By torchvision itself, called with one image and its seed."""
    step = made("ColorJitter", brightness=0.5)
    seeds = step.draw(6, 8, 8, generator())
    for image, seed, found in zip(LEVELS, seeds, step.change(X, seeds), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(int(seed))
            expected = v2.ColorJitter(brightness=0.5)(image)
        torch.testing.assert_close(levels(found), expected.float(), rtol=0, atol=1e-3)


def test_what_changes_nothing_gives_the_same_bits() -> None:
    assert torch.equal(made("Identity").change(X, torch.zeros(6, 1, dtype=torch.int64)), X)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["RandAugment", "RandomErasing"])
def test_the_memory_format_stays(name: str, memory_format: torch.memory_format) -> None:
    assert made(name)(X.to(memory_format=memory_format), generator()).is_contiguous(memory_format=memory_format)


def test_erased_squares_are_the_mean() -> None:
    erased = made("RandomErasing", p=1.0)(X, generator()) - X
    assert ((erased == 0) | (erased == -X)).all() and (erased != 0).any()


@pytest.mark.parametrize("name", ["MixUp", "CutMix", "RandomChoice"])
def test_each_mixed_image_is_made_of_those_whose_labels_it_has(name: str) -> None:
    step = made(name, **STEPS[name])
    for seed in range(6):
        seen: View = step(X, LABELS, generator(seed))
        assert torch.equal(seen.labels, LABELS)
        partner = X.roll(1, 0)  # whom torchvision mixes in
        assert torch.equal(seen.partners, LABELS.roll(1))
        blended = seen.share * X + (1 - seen.share) * partner
        patched = ((seen.x == X) | (seen.x == partner)).all()
        assert torch.allclose(seen.x, blended, atol=1e-5) or patched
        if patched:
            assert float((seen.x == X)[:, 0].float().mean()) == pytest.approx(seen.share, abs=0.01)


def test_an_image_alone_is_not_mixed() -> None:
    assert made("CutMix")(X[:1], LABELS[:1], generator()).share == 1


def test_where_nothing_was_mixed_the_labels_count_alone() -> None:
    never = made("RandomApply", transforms=["MixUp"], p=0.0)(X, LABELS, generator())
    assert never.share == 1 and torch.equal(never.x, X)


@pytest.mark.parametrize("name", [f"{OWN}:brighter", "TrivialAugmentWide"])
def test_kept_views_of_an_image_are_the_same_each_time(name: str) -> None:
    kept = KeptViews([made(name, **STEPS[name]), "flip"], 2, 6, 8, 8, seed=3, names=[name, "flip"])
    images, numbers = torch.tensor([0, 4, 0]), torch.tensor([0, 1, 1])
    one = kept.change(X[images], images, numbers)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(kept.change(X[images[order]], images[order], numbers[order]), one[order])
    assert kept.identity == [name, "flip", 2, 3]
    assert not torch.equal(one[0], one[2])


@pytest.mark.parametrize(("name", "arguments", "words"), [
    ("RandAugmnt", {}, "did you mean RandAugment"),
    ("RandAugment", {"strength": 9}, "strength"),
    ("RandomCrop", {"size": 4}, r"\(3, 4, 4\).*data.normalise"),
    ("ToDtype", {"dtype": "float32"}, "ToDtype"),
    ("ToPILImage", {}, "Image"),
    (f"{OWN}:as_floats", {}, "torch.float32"),
    (f"{OWN}:nothing", {}, "returned a NoneType"),
    ("CutMix", {"num_classes": 3}, "leave it out"),
    ("RandomApply", {"transforms": [{"nam": "Flip"}]}, "a mapping with a name"),
    ("Compose", {"transforms": ["MixUp"]}, "around a transform that mixes"),
    ("RandomChoice", {"transforms": ["MixUp", "RandomCrop"]}, "around such alone"),
    ("RandomIoUCrop", {}, "RandomIoUCrop"),
])  # fmt: skip
def test_what_cannot_be_is_refused(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(name, **arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["RandAugment", "MixUp", "CutMix"])
def test_the_device_changes_little(name: str) -> None:
    on = [
        view(X.to(device), LABELS.to(device), [transform(name, STEPS[name], SHAPE, MEAN.to(device), STD.to(device))], generator())
        for device in ("cpu", "cuda")
    ]
    assert on[0].share == pytest.approx(on[1].share) and on[1].x.device.type == "cuda"
    assert ((levels(on[0].x) - levels(on[1].x.cpu())).abs() <= 1.01).float().mean() > 0.95
