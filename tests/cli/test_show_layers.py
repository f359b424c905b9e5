"""kd-hpo layers: the table of a network's layers, and each mistake as one line."""

from pathlib import Path

import pytest
import yaml

from kd_hpo.nets.features import FeatureTap, layer_shapes
from kd_hpo.nets.zoo import build_network
from tests.cli.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def test_layers(kd_hpo: Command) -> None:
    told = kd_hpo("layers", "plain_conv", "--depth", "1")
    lines = told.lines
    assert (told.code, told.err) == (0, "")
    assert [line.split()[:3] for line in lines[1:6]] == [
        ["*", "conv1", "Sequential"],
        ["*", "conv2", "Sequential"],
        ["*", "conv3", "Sequential"],
        ["flatten", "Flatten", "256"],
        ["*", "fc", "Sequential"],
    ]
    assert lines[6].split() == ["logits", "PlainConv", "10", "58.0k", "2.99M"]
    assert lines[-1].endswith("layers: [conv1, conv2, conv3, fc]")


def test_the_list_can_be_pasted(kd_hpo: Command) -> None:
    lines = kd_hpo("layers", "torchvision/resnet18", "--input", "3x64x48", "--classes", "7").lines
    layers = yaml.safe_load(lines[-1].rpartition("layers: ")[2])
    with FeatureTap(build_network("torchvision/resnet18", {}, (3, 64, 48), 7, seed=0), (*layers, "logits")) as tap:
        shapes = [str(shape) for shape in layer_shapes(tap, (3, 64, 48))]
    assert shapes[-3:] == ["layer4 (512x2x2)", "fc:input (512x1x1)", "logits (7x1x1)"]


def test_arguments_and_depth(kd_hpo: Command) -> None:
    arguments = ("layers", "plain_conv", "--arguments", "{channels: [4], hidden: 8}", "--input", "1x8x8")
    assert len(kd_hpo(*arguments).lines) == len(kd_hpo(*arguments, "--all").lines) == 1 + 5 + 1 + 3 + 1 + 2
    assert len(kd_hpo(*arguments, "--depth", "1").lines) == 1 + 3 + 1 + 2


def test_a_network_of_ones_own(kd_hpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def linear(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    told = kd_hpo("layers", "own_networks:linear")
    assert [line.split()[0] for line in told.lines] == ["layer", "0", "1", "logits"]
    assert "Sequential has no layer before its logits" in told.error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plain_conv", "--input", "32x32"], "--input is '32x32'"),
        (["plain_conv", "--input", "3x0x32"], "--input is '3x0x32'"),
        (["plain_conv", "--arguments", "[1]"], "--arguments is '[1]'"),
        (["plain_conv", "--arguments", "{a: "], "--arguments, line 1: "),
        (["plain_conv", "--arguments", "{depht: 2}"], "depht"),
        (["plain_convv"], "plain_conv"),
    ],
)
def test_layers_refuses(kd_hpo: Command, arguments: list[str], words: str) -> None:
    told = kd_hpo("layers", *arguments)
    assert told.out == "" and words in told.error
