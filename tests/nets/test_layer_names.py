"""Lists of names and globs, as the layers that they stand for."""

import pytest
import torch
from torch import Tensor, nn

from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import FeatureTap
from kd_hpo.nets.layer_names import resolve_layers

SHAPE = (3, 8, 8)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


class Net(nn.Module):
    """Its modules are defined in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.pairs = nn.ModuleList([Pair(), Pair()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layer2(self.relu(self.layer1(x))))
        for pair in self.pairs:
            x = pair(x)[1]
        return self.logits(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("logits", "layer2", "layer1"), "logits layer2 layer1"),
        (("layer2", "layer*", "layer2"), "layer2 layer1"),
        (("layer*",), "layer1 layer2"),
        (("*",), "layer1 relu#1 layer2 relu#2"),  # no logits, no tuples, nothing unreached
        (("layer?.1",), "layer1.1 layer2.1"),
        (("layer**",), "layer1.0 layer1.1 layer1 layer2.0 layer2.1 layer2"),
        (("rel*#2",), "relu#2"),
        (("pairs.*[1]", "pairs.1[0]"), "pairs.0[1] pairs.1[1] pairs.1[0]"),
        (("l*:input",), "layer1:input layer2:input logits:input"),
        (("nonsense", "unused"), "nonsense unused"),  # the tap says what is wrong with a name
        ((), ""),
    ],
)
def test_names_and_globs(patterns: tuple[str, ...], expected: str) -> None:
    network = Net()
    names = resolve_layers(network, patterns, SHAPE)
    assert list(names) == expected.split()
    if "unused" not in names:
        with FeatureTap(network, names) as tap:
            tap(torch.randn(2, *SHAPE))


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("layr1*", r"'layr1\*'.*'layer1'.* layer1, relu#1, layer2, relu#2, logits"),
        ("unused*", "has no layer 'unused"),
        ("layer1.*[0]", r"has no layer 'layer1.\*\[0\]'; .*layer1.0"),
        ("logit*", r"has no layer 'logit\*'"),
        ("a[", "does not name a layer"),
    ],
)
def test_glob_that_matches_nothing(pattern: str, words: str) -> None:
    with pytest.raises(FeatureMismatch, match=words):
        resolve_layers(Net(), ("layer1", pattern), SHAPE)


def test_auto() -> None:
    assert resolve_layers(Net(), "auto", SHAPE) == ("layer1", "layer2", "logits:input")
