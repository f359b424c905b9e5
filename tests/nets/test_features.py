"""Features of named layers: read by hooks that go away, with errors that name what exists."""

import pytest
import torch
from torch import Tensor, nn

from kd_hpo.core.plan import LayerShape
from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import FeatureTap, evaluating, layer_shapes


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.pair = Pair()
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.pair(self.body(x).mean((2, 3)))
        return self.head(left + right)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_reads_features_in_the_order_asked() -> None:
    net, x = Net().eval(), torch.randn(2, 3, 6, 8)
    with FeatureTap(net, ("logits", "body.0", "body")) as tap:
        logits, features = tap(x)
    assert torch.equal(logits, net(x))
    assert torch.equal(features[0], logits)
    torch.testing.assert_close(features[1], net.body[0](x))
    torch.testing.assert_close(features[2], net.body(x))


def test_hooks_are_removed() -> None:
    net = Net()
    with FeatureTap(net, ("body", "head")):
        assert len(net.body._forward_hooks) == 1
    assert not any(module._forward_hooks for module in net.modules())


def test_gradients_reach_a_feature_from_the_logits() -> None:
    with FeatureTap(Net(), ("body",)) as tap:
        logits, (feature,) = tap(torch.randn(2, 3, 6, 6))
        (gradient,) = torch.autograd.grad(logits.sum(), feature)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("layer", "words"),
    [("bodi", "no layer 'bodi'; did you mean 'body'"), ("", "no layer ''"), ("body.9", "it has .*body.0.*logits")],
)
def test_unknown_layer(layer: str, words: str) -> None:
    with pytest.raises(FeatureMismatch, match=words):
        FeatureTap(Net(), (layer,))


@pytest.mark.parametrize(("layer", "words"), [("unused", "never reached"), ("pair", "returns a tuple")])
def test_layer_without_a_feature(layer: str, words: str) -> None:
    with FeatureTap(Net(), (layer,)) as tap, pytest.raises(FeatureMismatch, match=words):
        tap(torch.randn(2, 3, 6, 6))


def test_dry_run_finds_shapes_and_moves_nothing() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with FeatureTap(net, ("body", "head")) as tap:
        assert layer_shapes(tap, (3, 6, 8)) == (LayerShape("body", 4, 6, 8), LayerShape("head", 5, 1, 1))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_evaluating_gives_every_module_its_own_mode_back() -> None:
    net = Net().train()
    net.body.eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert net.training
    assert not net.body.training
