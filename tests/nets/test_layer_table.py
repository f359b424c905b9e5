"""The table of layers: what is in it, and that it can be read in a log and copied from."""

import io

import pytest
import torch
import yaml
from rich.console import Console
from torch import Tensor, nn

from kd_hpo.nets.layer_table import human, layer_table, yaml_list
from kd_hpo.nets.trace import trace


class Net(nn.Module):
    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(blocks)))
        self.split = Split()
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.split(self.body(x).mean((2, 3)))[0])


class Split(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def text_of(network: nn.Module, proposed: tuple[str, ...], depth: int | None, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True)
    console.print(layer_table(trace(network, (3, 4, 4)), proposed, depth, width))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_rows() -> None:
    # One convolution is 2 * 3 * 3 * 16 = 288 FLOPs, the linear layer 2 * 3 * 5 = 30.
    assert text_of(Net(), ("body.0.1", "body", "fc:input"), 2) == [
        "   layer     type         output  params  FLOPs",
        "*  body.0.1  ReLU          3x4x4       0    288",
        "   body.0    Sequential    3x4x4      12    288",
        "   body.1    Sequential    3x4x4      12    576",
        "*  body      Sequential    3x4x4      24    576",
        "   split[0]  Split        3, ...       0    576",
        "*  fc:input  into Linear       3            576",
        "   fc        Linear            5      20    606",
        "   logits    Net               5      44    606",
    ]


def names_of(lines: list[str]) -> list[str]:
    return [line[3:].split()[0] for line in lines[1:]]


def test_depth() -> None:
    assert names_of(text_of(Net(), (), 1)) == ["body", "split[0]", "fc", "logits"]
    assert len(text_of(Net(), (), 3)) == len(text_of(Net(), (), None)) == 1 + 4 + 2 + 4
    assert len(text_of(Net(20), (), None)) == 1 + 20 + 4  # with the third level, 60 rows would be too many
    assert len(text_of(Net(20), (), 99)) == 1 + 40 + 20 + 4


@pytest.mark.parametrize("width", [80, 48, 20])
def test_types_are_cut_and_names_are_not(width: int) -> None:
    class AModuleWithALongName(Net):
        pass

    net = AModuleWithALongName()
    net.body.add_module("a_block_with_a_long_name", nn.Identity())
    lines = text_of(net, (), None, width)
    assert "body.a_block_with_a_long_name" in names_of(lines)
    assert lines[-1].endswith("606")
    assert max(map(len, lines)) <= max(width, 29 + 8 + 6 + 6 + 5 + 11)
    assert any("AModuleWithALongName" in line for line in lines) == (width == 80)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (9999, "10.0k"), (999_999, "1.00M"), (11_181_642, "11.2M"), (5 * 10**15, "5000T")],
)
def test_human(number: int, expected: str) -> None:
    assert human(number) == expected


def test_the_list_is_yaml() -> None:
    layers = ["conv1", "fc:input", "relu#2", "blocks.0[0]", "8", "true", "Null", "a.b-c_d", "x[key]"]
    assert yaml_list(layers).startswith("[conv1, fc:input, relu#2, 'blocks.0[0]', '8', 'true',")
    assert yaml.safe_load(yaml_list(layers)) == layers


def test_the_network_s_own_logits_module_is_one_row() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Linear(48, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.logits(torch.flatten(x, 1))

    assert names_of(text_of(Named(), ("logits:input",), None)) == ["logits:input", "logits"]
