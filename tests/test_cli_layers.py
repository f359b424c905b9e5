"""kd-hpo layers and kd-hpo networks: what they print, and each mistake as one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kd_hpo.cli import main
from kd_hpo.nets.features import FeatureTap, layer_shapes
from kd_hpo.nets.network_list import networks_like
from kd_hpo.nets.zoo import build_network

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

Run = Callable[..., tuple[object, list[str], str]]


@pytest.fixture
def kd_hpo(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Exit code, lines printed, error."""

    def run(*arguments: str) -> tuple[object, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["kd-hpo", *arguments])
        code: object = 0
        try:
            main.main()
        except SystemExit as ended:
            code = ended.code or 0
        told = capsys.readouterr()
        return code, [line.rstrip() for line in told.out.splitlines()], told.err

    return run


def test_layers(kd_hpo: Run) -> None:
    code, lines, err = kd_hpo("layers", "plain_conv", "--depth", "1")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in lines[1:6]] == [
        ["*", "conv1", "Sequential"],
        ["*", "conv2", "Sequential"],
        ["*", "conv3", "Sequential"],
        ["flatten", "Flatten", "256"],
        ["*", "fc", "Sequential"],
    ]
    assert lines[6].split() == ["logits", "PlainConv", "10", "58.0k", "2.99M"]
    assert lines[-1] == "* proposed; in a study: layers: auto, or layers: [conv1, conv2, conv3, fc]"


def test_the_list_can_be_pasted(kd_hpo: Run) -> None:
    _, lines, _ = kd_hpo("layers", "torchvision/resnet18", "--input", "3x64x48", "--classes", "7")
    layers = yaml.safe_load(lines[-1].rpartition("layers: ")[2])
    with FeatureTap(build_network("torchvision/resnet18", {}, (3, 64, 48), 7, seed=0), (*layers, "logits")) as tap:
        shapes = [str(shape) for shape in layer_shapes(tap, (3, 64, 48))]
    assert shapes[-3:] == ["layer4 (512x2x2)", "fc:input (512x1x1)", "logits (7x1x1)"]


def test_arguments_and_depth(kd_hpo: Run) -> None:
    arguments = ("layers", "plain_conv", "--arguments", "{channels: [4], hidden: 8}", "--input", "1x8x8")
    assert len(kd_hpo(*arguments)[1]) == len(kd_hpo(*arguments, "--all")[1]) == 1 + 5 + 1 + 3 + 1 + 2
    assert len(kd_hpo(*arguments, "--depth", "1")[1]) == 1 + 3 + 1 + 2


def test_a_network_of_ones_own(kd_hpo: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def linear(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code, lines, err = kd_hpo("layers", "own_networks:linear")
    assert [line.split()[0] for line in lines] == ["layer", "0", "1", "logits"]
    assert (code, err) == (1, "error: Sequential has no layer before its logits that could be proposed; name its layers\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plain_conv", "--input", "32x32"], "--input is '32x32'; give channels x height x width, such as 3x32x32"),
        (["plain_conv", "--input", "3x0x32"], "--input is '3x0x32'"),
        (["plain_conv", "--arguments", "[1]"], "--arguments is '[1]'; give a YAML mapping"),
        (["plain_conv", "--arguments", "{a: "], "--arguments, line 1: "),
        (["plain_conv", "--arguments", "{depht: 2}"], "depht"),
        (["plain_convv"], "plain_conv"),
    ],
)
def test_layers_refuses(kd_hpo: Run, arguments: list[str], words: str) -> None:
    code, lines, err = kd_hpo("layers", *arguments)
    assert (code, lines) == (1, [])
    assert words in err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_networks(kd_hpo: Run) -> None:
    code, lines, err = kd_hpo("networks")
    assert (code, err) == (0, "")
    assert lines[0].startswith("own: ")
    assert {"  plain_conv", "  torchvision/resnet18"} <= set(lines)
    assert len(lines) < 150  # timm's many names wait for a pattern
    assert kd_hpo("networks", "ain_con")[1] == ["own: 1", "  plain_conv"]
    assert kd_hpo("networks", "torchvision/resnet?8")[1] == ["torchvision: 1", "  torchvision/resnet18"]
    assert "  torchvision/vgg11_bn" in kd_hpo("networks", "vgg1*_bn")[1]


def test_networks_without_a_match(kd_hpo: Run) -> None:
    assert kd_hpo("networks", "plain_konv") == (
        1,
        [],
        "error: no network's name matches 'plain_konv'; did you mean plain_conv?\n",
    )
    assert "give a part of a name" in kd_hpo("networks", "%%%")[2]


def test_what_is_listed_can_be_built() -> None:
    for name in networks_like("*resnet18")["torchvision"]:
        build_network(name, {}, (3, 32, 32), 10, seed=0)


@pytest.mark.parametrize("command", ["layers", "networks"])
def test_help_loads_no_torch(command: str) -> None:
    code = f"from kd_hpo.cli.main import app; app(['{command}', '--help'], result_action='return_value')"
    tell = "import json, sys; print(); print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True)
    assert not {"torch", "timm", "torchvision", "ray"} & set(json.loads(told.stdout.splitlines()[-1]))
