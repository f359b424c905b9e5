"""torchvision's and timm's networks: every family is built for other channels and classes, and its weights are taken."""

import sys
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from kd_hpo.errors import ConfigError
from kd_hpo.nets.zoo import build_network, network_names


def on_meta(name: str, arguments: dict[str, Any], shape: tuple[int, int, int], classes: int = 7) -> nn.Module:
    """Shapes alone, so that large networks cost nothing; `build_network` runs each once."""
    with torch.device("meta"):
        return build_network(name, arguments, shape, classes, seed=0)


FAMILIES = {
    64: "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet mnasnet0_5 mobilenet_v2 "
    "mobilenet_v3_small resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 swin_t swin_v2_t vgg11 vgg11_bn vit_b_16 "
    "wide_resnet50_2",
    80: "inception_v3",
    224: "maxvit_t",
}
TAKES_IT = [(name, size) for size, names in FAMILIES.items() for name in names.split()]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "size"), TAKES_IT, ids=[name for name, _ in TAKES_IT])
def test_every_family_of_torchvision_takes_channels_and_classes(name: str, size: int) -> None:
    on_meta(f"torchvision/{name}", {}, (1, size, size))


def test_regnet() -> None:  # which torchvision cannot build without memory
    network = build_network("regnet_x_400mf", {}, (2, 32, 48), 7, seed=0)
    assert network(torch.zeros(2, 2, 32, 48)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "layer", "resolution"),
    [
        ("resnet18", "maxpool", 32),
        ("resnext50_32x4d", "maxpool", 32),
        ("densenet121", "features.pool0", 32),
        ("mobilenet_v2", "features.1", 32),
        ("mobilenet_v3_small", "features.0", 32),
        ("shufflenet_v2_x0_5", "maxpool", 32),
        ("efficientnet_b0", "features.1", 32),
        ("mnasnet0_5", "layers.2", 32),
        ("googlenet", "maxpool1", 32),
        ("squeezenet1_1", "features.2", 32),
        ("alexnet", "features.2", 32),
        ("timm/resnet18", "maxpool", 32),
        ("timm/mobilenetv3_small_050", "conv_stem", 32),
    ],
)
def test_a_small_stem_keeps_32x32(name: str, layer: str, resolution: int) -> None:
    shapes, network = [], on_meta(name, {"stem": "small"}, (3, 32, 32))
    network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
    network.eval()(torch.zeros(2, 3, 32, 32, device="meta"))
    assert shapes == [(resolution, resolution)]


@pytest.mark.parametrize(
    ("name", "arguments", "shape", "words"),
    [
        ("alexnet", {}, (3, 32, 32), "'alexnet': .* 3x32x32.*stem: small"),
        ("inception_v3", {}, (3, 64, 64), "'inception_v3': .* 3x64x64"),
        ("maxvit_t", {}, (3, 64, 64), "'maxvit_t' cannot be built with .*not divisible by partition size 7"),
        ("vit_b_16", {}, (3, 40, 40), "'vit_b_16' .*multiple of 16, not 40x40"),
        ("vit_b_16", {}, (3, 32, 64), "'vit_b_16' .*square .* not 32x64"),
        ("vit_b_16", {"stem": "small"}, (3, 32, 32), "stem: small does not fit VisionTransformer, .* patches of 16x16"),
        ("swin_t", {"stem": "small"}, (3, 32, 32), "stem: small does not fit SwinTransformer"),
        ("timm/convnext_atto", {"stem": "small"}, (3, 32, 32), "does not fit ConvNeXt, .*patch_size"),
        ("vgg11", {"stem": "small"}, (3, 32, 32), "stem: small .*VGG"),
        ("resnet18", {"stem": "tiny"}, (3, 32, 32), "stem: tiny"),
        ("resnet18", {"num_classes": 3}, (3, 32, 32), "cannot be built with .*multiple values .*'num_classes'"),
        ("resnet18", {"depth": 3}, (3, 32, 32), "cannot be built with {'depth': 3}: .*'depth'"),
        ("timm/resnet18", {"depth": 3}, (3, 32, 32), "cannot be built with {'depth': 3}: .*'depth'"),
        ("timm/mixer_s16_224", {"patch_size": 4}, (3, 32, 32), "'patch_size'.*timm.models:MlpMixer"),
        ("timm/resnet18.nope", {}, (3, 32, 32), "'resnet18' .*'nope'.* a1_in1k, "),
    ],
)
def test_what_a_library_cannot_build_is_told(
    name: str, arguments: dict[str, Any], shape: tuple[int, int, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        on_meta(name, arguments, shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}, (3, 32, 32)),
        ("timm/vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}, (1, 32, 48)),
        ("timm.models:MlpMixer", {"patch_size": 4, "embed_dim": 24, "num_blocks": 2}, (1, 32, 32)),
        ("timm.models:MlpMixer", {"patch_size": 8, "embed_dim": 24, "num_blocks": 1}, (3, 32, 48)),
        ("timm/deit_tiny_distilled_patch16_224", {"patch_size": 8, "embed_dim": 24, "depth": 1}, (3, 32, 32)),
        ("timm/swin_tiny_patch4_window7_224", {"embed_dim": 24, "depths": [1, 1], "num_heads": [3, 6]}, (3, 56, 56)),
        ("timm/resnet18", {"stem": "small"}, (1, 32, 32)),
        (
            "torchvision.models:VisionTransformer",
            {"patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 48},
            (3, 32, 32),
        ),
    ],
)
def test_small_networks_by_arguments(name: str, arguments: dict[str, Any], shape: tuple[int, int, int]) -> None:
    network = build_network(name, arguments, shape, 7, seed=0)
    assert network(torch.zeros(2, *shape)).shape == (2, 7)
    assert sum(p.numel() for p in network.parameters()) < 12e6


def test_a_bare_name_is_of_the_first_that_has_it() -> None:
    timms, torchvisions = on_meta("timm/resnet18", {}, (3, 64, 64)), on_meta("resnet18", {}, (3, 64, 64))
    assert type(timms) is timm.models.ResNet and type(torchvisions) is torchvision.models.ResNet
    assert type(on_meta("test_vit", {}, (3, 64, 64))) is timm.models.VisionTransformer


def test_without_timm_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert network_names()["timm"] == []
    on_meta("resnet18", {}, (3, 64, 64))
    for name in ("timm/vit_tiny_patch16_224", "vit_tiny_patch16_224"):
        with pytest.raises(ConfigError, match=r"timm.* is not installed: pip install 'kd_hpo\[timm\]'"):
            on_meta(name, {}, (3, 32, 32))


Download = Callable[..., dict[str, Tensor]]


@pytest.fixture
def torchvision_download(monkeypatch: pytest.MonkeyPatch) -> Callable[[Download], None]:
    return lambda download: monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)


@pytest.mark.parametrize("weights", [True, "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"])
def test_pretrained_weights_of_torchvision(torchvision_download: Callable[[Download], None], weights: bool | str) -> None:
    torch.manual_seed(9)
    original = torchvision.models.squeezenet1_1().eval()
    torchvision_download(lambda url, **_: original.state_dict())
    network, same = (
        build_network("squeezenet1_1", {}, (channels, 64, 64), classes, seed=0, pretrained=weights).eval()
        for channels, classes in ((1, 7), (3, 1000))
    )
    grey = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.features(grey), original.features(grey.repeat(1, 3, 1, 1)))
        torch.testing.assert_close(same(grey.repeat(1, 3, 1, 1)), original(grey.repeat(1, 3, 1, 1)))
        assert network(grey).shape == (2, 7)


def test_the_head_of_a_pretrained_network_depends_on_the_seed(torchvision_download: Callable[[Download], None]) -> None:
    original = torchvision.models.shufflenet_v2_x0_5()
    torchvision_download(lambda url, **_: original.state_dict())
    heads = [build_network("shufflenet_v2_x0_5", {}, (3, 32, 32), 5, seed=seed, pretrained=True).fc.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "shape", "changed"),
    [
        ("googlenet", (1, 64, 64), {}),
        ("inception_v3", (1, 80, 80), {}),
        ("vit_b_16", (3, 32, 32), {"encoder.pos_embedding": (1, 5, 768)}),
        ("densenet121", (3, 32, 32), {}),
    ],
)
def test_pretrained_weights_of_families_with_more_to_adapt(
    torchvision_download: Callable[[Download], None], name: str, shape: tuple[int, int, int], changed: dict[str, Any]
) -> None:
    with torch.device("meta"):
        quiet = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        original = torchvision.models.get_model(name, **quiet)
        torchvision_download(lambda url, **_: original.state_dict())
        network = build_network(name, {}, shape, 7, seed=0, pretrained=True)
    assert not [name for name, _ in network.named_modules() if "aux" in name.lower()]
    assert {n: tuple(network.state_dict()[n].shape) for n in changed} == changed
    if shape[0] == 1:
        assert network.transform_input is False


@pytest.mark.parametrize("weights", [True, "a1_in1k", "resnet18.a1_in1k"])
def test_pretrained_weights_of_timm(monkeypatch: pytest.MonkeyPatch, weights: bool | str) -> None:
    original, asked = timm.create_model("resnet18"), list[str]()

    def download(name: str, *_: object, **__: object) -> dict[str, Tensor]:
        asked.append(name)
        return original.state_dict()

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    network = build_network("timm/resnet18", {}, (1, 32, 32), 7, seed=0, pretrained=weights)
    assert asked == ["timm/resnet18.a1_in1k"]
    assert torch.equal(network.layer4[1].conv2.weight, original.layer4[1].conv2.weight)
    torch.testing.assert_close(network.conv1.weight, original.conv1.weight.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("resnet18", "IMAGENET", "'resnet18' .*'IMAGENET'.* IMAGENET1K_V1"),
        ("timm/resnet18", "nope", "'resnet18' .*'nope'.* a1_in1k, "),
        ("timm/coatnet_0_224", True, "'coatnet_0_224' .* it has none"),
    ],
)
def test_weights_that_do_not_exist_are_told(name: str, weights: bool | str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_network(name, {}, (3, 32, 32), 7, seed=0, pretrained=weights)


def test_a_failed_download_is_told(torchvision_download: Callable[[Download], None]) -> None:
    def fail(url: str, **_: object) -> dict[str, Tensor]:
        raise URLError("Name or service not known")

    torchvision_download(fail)
    with pytest.raises(ConfigError, match=r"pretrained weights: .*Name or service") as caught:
        build_network("squeezenet1_1", {}, (3, 64, 64), 7, seed=0, pretrained=True)
    assert "\n" not in str(caught.value)
