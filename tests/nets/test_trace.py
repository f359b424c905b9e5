"""What a dry run meets: counts against numbers worked out by hand."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.core.plan import LayerShape
from kd_hpo.nets.trace import Visit, trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), self.relu)
        self.halves = Halves()
        self.fc = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.halves(self.body(x))
        return self.fc(self.relu((left + right).mean((2, 3))))


class Halves(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.chunk(2, dim=2)  # type: ignore[return-value]


def by_name(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, Visit]:
    visits = trace(network, input_shape)
    named = {str(visit.layer): visit for visit in visits}
    assert len(named) == len(visits)
    return named


def test_visits_in_the_order_in_which_they_end() -> None:
    visits = by_name(Net(), (3, 6, 10))
    assert list(visits) == ["body.0", "body.1", "relu#1", "body", "halves[0]", "relu#2", "fc", ""]
    assert [str(child.layer) for child in visits["body"].children] == ["body.0", "body.1", "relu#1"]
    assert [str(child.layer) for child in visits[""].children] == ["body", "halves[0]", "relu#2", "fc"]


def test_shapes_parameters_and_flops() -> None:
    visits = by_name(Net(), (3, 6, 10))
    conv, fc = 2 * 4 * 3 * 9 * (4 * 8), 2 * 4 * 5  # two for each multiplication, once an output position
    expected = {
        "body.0": ({"": (4, 4, 8), ":input": (3, 6, 10)}, LayerShape("", 4, 4, 8), 4 * 27, conv),
        "body": ({"": (4, 4, 8), ":input": (3, 6, 10)}, LayerShape("", 4, 4, 8), 4 * 27 + 8, conv),
        "halves[0]": ({"[0]": (4, 2, 8), "[1]": (4, 2, 8), ":input": (4, 4, 8)}, LayerShape("", 4, 2, 8), 0, conv),
        "fc": ({"": (5,), ":input": (4,)}, LayerShape("", 5, 1, 1), 25, conv + fc),
        "": ({"": (5,), ":input": (3, 6, 10)}, LayerShape("", 5, 1, 1), 4 * 27 + 8 + 25 + 20, conv + fc),
    }
    for name, values in expected.items():
        visit = visits[name]
        assert (visit.tensors, visit.shape, visit.parameters, visit.flops) == values, name
    assert visits["fc"].flops_before == conv
    assert visits["halves[0]"].outputs == {"[0]": (4, 2, 8), "[1]": (4, 2, 8)}


def test_identity_tells_aliases_from_what_is_overwritten() -> None:
    visits = by_name(Net(), (3, 6, 10))
    assert visits["relu#1"].identity == visits["body"].identity
    assert visits["body.1"].identity != visits["relu#1"].identity  # one tensor, before and after
    assert visits["fc"].identity == visits[""].identity


def test_attention_counts_its_products() -> None:
    """In MultiheadAttention and in F.scaled_dot_product_attention, where fused kernels would hide them."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)

    visits = by_name(Attention(), (3, 16, 16))
    n, c = 16, 8
    projections, products = 2 * n * c * 4 * c, 2 * 2 * n * n * c
    assert visits["patch"].flops == 2 * n * c * 48
    assert visits["attention[0]"].flops - visits["attention[0]"].flops_before == projections + products
    assert visits[""].flops == visits["attention[0]"].flops + products
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_is_no_map_has_no_shape() -> None:
    net = nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Flatten(0, 1), nn.Unflatten(0, (-1, 3)), nn.Flatten())
    assert [visit.shape for visit in trace(net, (3, 4, 4))[:2]] == [None, None]  # (B, 3, 1, 4, 4), (3 B, 1, 4, 4)


def test_moves_nothing() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trace(net, (3, 6, 10))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training and not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
