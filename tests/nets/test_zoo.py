"""Networks by name: where a name leads, a user's own callable, and what is told."""

import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from kd_hpo.errors import ConfigError
from kd_hpo.nets.weights import weights_digest
from kd_hpo.nets.zoo import build_network, network_names


def test_the_papers_networks() -> None:
    teacher = build_network("plain_conv", {"channels": [16, 32, 64], "hidden": 128}, (3, 32, 32), 10, seed=0)
    convolutions = 3 * 16 * 9 + 16 + 16 * 32 * 9 + 32 + 32 * 64 * 9 + 64
    norms, dense = 2 * (16 + 32 + 64), 64 * 2 * 2 * 128 + 128 + 128 * 10 + 10
    assert sum(p.numel() for p in teacher.parameters()) == convolutions + norms + dense
    assert [name for name, _ in teacher.named_children()] == ["conv1", "conv2", "conv3", "flatten", "fc", "logits"]
    assert teacher(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("name", ["plain_conv", "resnet20", "squeezenet1_1", "test_resnet"])
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    def digest(seed: int) -> str:
        torch.rand(3)
        return weights_digest(build_network(name, {}, (3, 32, 32), 10, seed=seed))

    torch.manual_seed(5)
    expected = torch.rand(6)
    torch.manual_seed(5)
    assert digest(1) == digest(1) != digest(2)  # three numbers are drawn each time, by `digest`
    torch.manual_seed(5)
    torch.rand(3)
    build_network(name, {}, (3, 32, 32), 10, seed=1)
    assert torch.equal(torch.rand(3), expected[3:])  # the caller's random state is as it was


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("resnet19", {}, "'resnet19'; did you mean resnet"),
        ("vgg_8", {}, "did you mean vgg8"),
        ("torchvision/mobilenet_v3", {}, "did you mean torchvision/mobilenet_v2 or torchvision/mobilenet_v3_small"),
        ("timm/resnet8x4", {}, "'timm/resnet8x4'; did you mean timm/"),
        ("kd_hpo/resnet20", {}, "'kd_hpo/resnet20'"),
        ("", {}, "called ''"),
        ("plain_conv", {"width": 3}, "cannot be built with .*width"),
        ("plain_conv", {3: 3}, "cannot be built with .*keywords must be strings"),
        ("plain_conv", {"channels": [4] * 5}, "too deep for 32x32 images.* conv4"),
        ("plain_conv", {"channels": [-4]}, "cannot be built with .*negative"),
    ],
)
def test_what_cannot_be_built_is_told(name: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_network(name, arguments, (3, 32, 32), 10, seed=0)
    assert "\n" not in str(caught.value)


def test_names_by_where_they_are_from() -> None:
    names = network_names()
    assert list(names) == ["own", "torchvision", "timm"]
    assert {"plain_conv", "cifar_resnet", "resnet20", "wrn_40_2", "vgg8", "cifar_vgg13"} <= set(names["own"])
    assert {"torchvision/resnet18", "torchvision/vit_b_16"} <= set(names["torchvision"])
    assert not [
        name for name in names["torchvision"] if "rcnn" in name or "deeplab" in name or "quantized" in name or "raft" in name
    ]
    assert "timm/vit_tiny_patch16_224" in names["timm"]


def test_networks_of_ours_have_no_weights_to_take() -> None:
    with pytest.raises(ConfigError, match="'resnet20' comes without weights"):
        build_network("resnet20", {}, (3, 32, 32), 10, seed=0, pretrained=True)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module of networks."""
    code = """
    from torch import nn

    def linear(input_shape, classes, bias=True):
        c, h, w = input_shape
        return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes, bias=bias))

    def anything(**given):
        assert set(given) == {"input_shape", "classes", "bias"}
        return linear(**given)

    class Usual(nn.Sequential):
        def __init__(self, num_classes=1000, in_chans=3, img_size=224):
            super().__init__(nn.Flatten(), nn.Linear(in_chans * img_size**2, num_classes))

    def fixed():
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))

    def broken(classes):
        raise TypeError("a mistake of mine")

    def number(classes):
        return 3

    def deaf(classes):
        return nn.Linear(7, classes)

    def pair(input_shape, classes):
        class Pair(nn.Module):
            def forward(self, x):
                return x, x
        return Pair()
    """
    (tmp_path / "users_networks.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    return "users_networks"


@pytest.mark.parametrize(
    ("function", "arguments"),
    [("linear", {"bias": False}), ("linear", {}), ("anything", {"bias": False}), ("Usual", {}), ("fixed", {})],
)
def test_a_users_own_network(module: str, function: str, arguments: dict[str, object]) -> None:
    network = build_network(f"{module}:{function}", arguments, (3, 8, 8), 4, seed=0)
    assert isinstance(network, nn.Module) and network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert ("1.bias" in dict(network.named_parameters())) == arguments.get("bias", True)


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("linear", {"width": 2}, "'users_networks:linear' .*'width'"),
        ("number", {}, "returned int"),
        ("deaf", {}, "'users_networks:deaf': .* 3x8x8"),
        ("pair", {}, "'users_networks:pair': .*a tuple"),
        ("lineer", {}, "no callable 'lineer'"),
    ],
)
def test_a_users_network_that_does_not_work_is_told(module: str, function: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_network(f"{module}:{function}", arguments, (3, 8, 8), 4, seed=0)


def test_logits_must_be_one_a_class(module: str) -> None:
    with pytest.raises(ConfigError, match=r"\(2, 4\).*\(B, 10\)"):
        build_network(f"{module}:fixed", {}, (3, 8, 8), 10, seed=0)


def test_a_users_own_error_goes_on_with_a_note(module: str) -> None:
    with pytest.raises(TypeError, match="a mistake of mine") as caught:
        build_network(f"{module}:broken", {}, (3, 8, 8), 4, seed=0)
    assert caught.value.__notes__ == ["network 'users_networks:broken' was called with {'classes': 4}"]


def test_a_users_network_has_no_weights_to_take(module: str) -> None:
    with pytest.raises(ConfigError, match="comes without weights"):
        build_network(f"{module}:linear", {}, (3, 8, 8), 4, seed=0, pretrained="IMAGENET1K_V1")
