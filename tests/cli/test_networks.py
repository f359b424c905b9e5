"""kd-hpo networks, and both commands about networks as JSON."""

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")


def test_networks(kd_hpo: Command) -> None:
    told = kd_hpo("networks")
    lines = told.lines
    assert (told.code, told.err) == (0, "")
    assert lines[0].startswith("own: ")
    assert {"  plain_conv", "  torchvision/resnet18"} <= set(lines)
    assert len(lines) < 150  # timm's many names wait for a pattern
    assert kd_hpo("networks", "ain_con").lines == ["own: 1", "  plain_conv"]
    assert kd_hpo("networks", "torchvision/resnet?8").lines == ["torchvision: 1", "  torchvision/resnet18"]
    assert "  torchvision/vgg11_bn" in kd_hpo("networks", "vgg1*_bn").lines


def test_networks_without_a_match(kd_hpo: Command) -> None:
    told = kd_hpo("networks", "plain_konv")
    assert told.out == "" and "did you mean plain_conv" in told.error


@pytest.mark.parametrize("command", ["layers", "networks"])
def test_help_loads_no_torch(command: str) -> None:
    code = f"from kd_hpo.cli.main import app; app(['{command}', '--help'], result_action='return_value')"
    tell = "import json, sys; print(); print(json.dumps(sorted(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True)
    assert not {"torch", "timm", "torchvision", "ray"} & set(json.loads(told.stdout.splitlines()[-1]))


def test_networks_and_layers_as_json(kd_hpo: Command) -> None:
    assert json.loads(kd_hpo("networks", "ain_con", "--json").out) == {"own": ["plain_conv"]}
    document = json.loads(kd_hpo("layers", "plain_conv", "--json").out)
    assert document["proposed"] == ["conv1", "conv2", "conv3", "fc"]
    conv1 = next(layer for layer in document["layers"] if layer["name"] == "conv1")
    assert conv1["outputs"] == [[16, 15, 15]] and conv1["parameters"] > 0 and conv1["flops"] > 0
