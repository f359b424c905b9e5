"""Features of named layers: read by hooks that go away, with errors that name what exists."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd_hpo.core.plan import LayerShape
from kd_hpo.core.tasks import Classification
from kd_hpo.errors import FeatureMismatch
from kd_hpo.nets.features import FeatureTap, dry_run, evaluating, layer_shapes
from kd_hpo.nets.outputs import require_output
from kd_hpo.nets.trace import trace


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
    [("bodi", "'bodi'.* 'body'"), ("", "''"), ("body.9", "body.0.*logits")],
)
def test_unknown_layer(layer: str, words: str) -> None:
    with pytest.raises(FeatureMismatch, match=words):
        FeatureTap(Net(), (layer,))


def test_hundreds_of_layers_are_not_all_told() -> None:
    net = nn.Sequential(*(nn.Identity() for _ in range(100)))
    with pytest.raises(FeatureMismatch, match=r"'100'.* 71 more"):
        FeatureTap(net, ("100",))


class Odd(nn.Module):
    """Calls `relu` three times; `pair` returns a tuple, `both` a dict of a tensor and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pair, self.both = nn.Conv2d(3, 4, 1), nn.ReLU(), Pair(), Both()
        self.head, self.unused, self.none = nn.Linear(4, 5), nn.Linear(4, 4), Nothing()

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.conv(x)).mean((2, 3))
        b = self.relu(a + 1)
        left, right = self.pair(x=self.relu(b + 2))
        self.none()
        told = self.both(left - 3)
        return self.head(told["sum"] + told["list"][1] + right)


class Both(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"sum": x + 1, "list": [x + 2, x + 3], "size": 4}


class Nothing(nn.Module):
    def forward(self) -> None:
        return None


def test_calls_items_and_inputs() -> None:
    net, x = Odd(), torch.randn(2, 3, 6, 6)
    a = net.conv(x).relu().mean((2, 3))
    b = (a + 1).relu()
    c = (b + 2).relu()
    expected = {
        "relu#1": net.conv(x).relu(),
        "relu#2": b,
        "relu#2:input": a + 1,
        "conv:input": x,
        "conv#1": net.conv(x),
        "pair[1]": c,
        "pair:input": c,
        "both[sum]": c - 2,
        "both[list][0]": c - 1,
        "head:input": 3 * c - 2,
    }
    with FeatureTap(net, tuple(expected)) as tap:
        logits, features = tap(x)
    torch.testing.assert_close(logits, net(x))
    for (name, value), feature in zip(expected.items(), features, strict=True):
        torch.testing.assert_close(feature, value, msg=name)
    reached = [f for name, f in zip(expected, features, strict=True) if name not in ("conv:input", "both[list][0]")]
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(logits.square().sum(), reached))


@pytest.mark.parametrize(
    ("layer", "facts"),
    [
        ("unused", ["never reached"]),
        ("relu", ["3 times", "relu#1 to relu#3"]),
        ("relu:input", ["3 times", "relu#1:input to relu#3:input"]),
        ("relu#4", ["3 times", "relu#1 to relu#3"]),
        ("head#2", ["once", "'head#2'"]),
        ("pair", ["a tuple", "pair[0] or pair[1]"]),
        ("pair[2]", ["a tuple", "[2]", "pair[0] or pair[1]"]),
        ("both", ["a dict", "both[sum] or both[list][0] or both[list][1]"]),
        ("both[list]", ["a dict", "[list]", "both[sum] or both[list][0] or both[list][1]"]),
        ("head[0]", ["a tensor", "[0]"]),
        ("none", ["NoneType"]),
        ("none:input", ["no tensor"]),
    ],
)
def test_name_that_does_not_say_which_tensor(layer: str, facts: list[str]) -> None:
    name = layer.split(":")[0].split("#")[0].split("[")[0]
    with FeatureTap(Odd(), (layer,)) as tap, pytest.raises(FeatureMismatch, match=f"'{name}'") as raised:
        tap(torch.randn(2, 3, 6, 6))
    assert all(fact in str(raised.value) for fact in facts), raised.value


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            Both(),
            r"Both returns a dict, .* sum \(2, 5\), list\.0 ",
        ),
        (Pair(), r"Pair .*tuple.* 0 \(2, 5\), 1 \(2, 5\)"),
        (nn.Identity(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_returns_one_tensor(network: nn.Module, words: str | None) -> None:
    tap, x = FeatureTap(network, ("logits",)), torch.randn(2, 5)
    if words is None:
        assert torch.equal(tap(x)[0], x)
        return
    with pytest.raises(FeatureMismatch, match=words):
        tap(x)


def test_what_the_output_has_to_be_is_the_tasks_to_say() -> None:
    column = torch.zeros(2, 5, 1)
    with pytest.raises(FeatureMismatch, match=r"Identity .* \(2, 5, 1\), but .* \(B, K\)"):
        require_output(nn.Identity(), column, Classification(5).refuses)
    assert require_output(nn.Identity(), column, lambda output: None) is column


class InPlace(nn.Module):
    """Overwrites the features of bn1 by a module, of bn2 by a sum, of bn3 by a function, each if inplace."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64) for _ in range(3))
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(4, dtype=torch.float64) for _ in range(3))
        self.relu, self.inplace, self.fc = nn.ReLU(inplace), inplace, nn.Linear(4, 5, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(x))
        if self.inplace:
            y += x
        else:
            y = y + x
        return self.fc(F.silu(self.bn3(self.conv3(y)), self.inplace).mean((2, 3)))


IN_PLACE = ("bn1", "relu", "bn2", "bn3", "relu:input", "fc:input")


def pair_like_loss(features: list[Tensor]) -> Tensor:
    return torch.stack([(feature - 0.3).square().mean() for feature in features])


@pytest.mark.parametrize("training", [True, False])
def test_in_place_operations_change_no_feature_and_no_derivative(training: bool) -> None:
    torch.manual_seed(0)
    networks = [InPlace(False).train(training), InPlace(True).train(training)]
    networks[1].load_state_dict(networks[0].state_dict())
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    values: list[list[Tensor]] = []
    for network in networks:
        with FeatureTap(network, IN_PLACE) as tap:
            logits, features = tap(x)
            of_task = torch.autograd.grad(logits.square().sum(), features, retain_graph=True)
            of_pairs = torch.autograd.grad(pair_like_loss(features).sum() + logits.sum(), list(network.parameters()))
            along, pairs = jvp_of_pairs(tap, x)
        values.append([logits, *features, *of_task, *of_pairs, along, pairs])
    for plain, in_place in zip(*values, strict=True):
        torch.testing.assert_close(in_place, plain, rtol=1e-12, atol=1e-12)
    bn1, relu = values[1][1], values[1][2]
    torch.testing.assert_close(relu, bn1.relu())
    assert bn1.min() < 0  # it is what the layer gave, not what the next made of it


@pytest.mark.parametrize("training", [True, False])
def test_a_feature_is_copied_only_where_the_network_overwrites_it(training: bool) -> None:
    torch.manual_seed(0)
    network, x = InPlace(True).train(training), torch.randn(3, 4, 6, 6, dtype=torch.float64)
    went_on = dict[str, Tensor]()
    with FeatureTap(network, ("bn1", "fc:input")) as tap:
        network.relu.register_forward_pre_hook(lambda _, given: went_on.update(relu=given[0]))
        network.fc.register_forward_pre_hook(lambda _, given: went_on.update(fc=given[0]))
        before, passes = network.training, [tap(x)[1], tap(x)[1]]
        bn1, pooled = passes[1]
        assert went_on["relu"] is not bn1
        torch.testing.assert_close(bn1.relu(), went_on["relu"])  # overwritten
        assert went_on["fc"].data_ptr() == pooled.data_ptr()
        network.train(not before)  # the other mode has its own first pass
        other = tap(x)[1][1]
        assert went_on["fc"].data_ptr() != other.data_ptr()
    for one, again in zip(*passes, strict=True):
        torch.testing.assert_close(one, again, rtol=1e-12, atol=1e-12)


def test_a_layer_that_overwrites_in_one_mode_alone() -> None:
    """In eval mode dropout returns what it was given."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5, inplace=True), nn.Linear(4, 2))
    x = torch.randn(64, 4)
    with FeatureTap(network, ("0",)) as tap:
        for training in (False, False, True, True):
            tap.train(training)
            torch.testing.assert_close(tap(x)[1][0], network[0](x))


def test_a_feature_that_is_overwritten_only_later_is_refused() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.calls = nn.Linear(3, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            x = self.first(x)
            return x.mul_(2) if self.calls == 3 else x * 2

    with FeatureTap(Moody(), ("first",)) as tap, torch.no_grad():
        for _ in range(2):
            tap(torch.randn(2, 3))
        with pytest.raises(FeatureMismatch, match=r"overwrites .*'first'"):
            tap(torch.randn(2, 3))


def jvp_of_pairs(tap: FeatureTap, x: Tensor) -> tuple[Tensor, Tensor]:
    """Along ones, as the hypergradient reads them."""
    weights = {name: p.detach() for name, p in tap.named_parameters()}

    def pairs(w: dict[str, Tensor]) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in tap.named_buffers()}
        return pair_like_loss(functional_call(tap, {**w, **buffers}, (x,))[1])

    ones = {name: torch.ones_like(p) for name, p in weights.items()}
    return torch.func.jvp(pairs, (weights,), (ones,))


def test_gradient_of_an_input_counts_every_way_on() -> None:
    """A block's input goes on through the block and around it."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            return x + self.inner(x)

    net = Residual()
    with FeatureTap(net, ("inner:input",)) as tap:
        logits, (feature,) = tap(torch.randn(2, 3, requires_grad=True))
        (gradient,) = torch.autograd.grad(logits.sum(), feature)
    torch.testing.assert_close(gradient, (1 + net.inner.weight.sum(0)).expand(2, 3))


def test_tensor_that_is_overwritten_elsewhere_is_refused() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = x + 0
            y = self.same(x)
            x.mul_(2)
            return x + y

    with FeatureTap(Careless(), ("same",)) as tap, pytest.raises(FeatureMismatch, match=r"overwrites .*'same'"):
        tap(torch.randn(2, 3))


def test_reads_only_in_its_own_forward_pass() -> None:
    net, x = Odd(), torch.randn(2, 3, 6, 6)
    with FeatureTap(net, ("conv", "relu#3")) as tap:
        net(x)
        first = tap(x)[1]
        net(x)
        for one, other in zip(first, tap(x)[1], strict=True):
            torch.testing.assert_close(one, other)
        assert all(reader.kept is None for reader in tap._readers.values())


def test_works_without_a_version_counter() -> None:
    with FeatureTap(Net(), ("body",)) as tap, torch.inference_mode():
        assert tap(torch.randn(2, 3, 6, 6))[1][0].shape == (2, 4, 6, 6)


def test_shared_module_has_both_its_names() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2] = net[0]
    x = torch.randn(2, 3)
    with FeatureTap(net, ("0#1", "2#2")) as tap:
        _, (first, second) = tap(x)
    torch.testing.assert_close(first, net[0](x))
    torch.testing.assert_close(second, net(x))


def test_dry_run_finds_shapes_and_moves_nothing() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with FeatureTap(net, ("body", "head")) as tap:
        assert layer_shapes(tap, (3, 6, 8)) == (LayerShape("body", 4, 6, 8), LayerShape("head", 5, 1, 1))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_layer_whose_first_side_is_not_the_batch_has_no_shape() -> None:
    net = nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Flatten(0, 1), nn.Flatten(), nn.Unflatten(0, (-1, 3)), nn.Flatten())
    with FeatureTap(net, ("1",)) as tap, pytest.raises(FeatureMismatch, match=r"'1' .*\(6, 1, 4, 4\)"):
        layer_shapes(tap, (3, 4, 4))


class Leaky(nn.Module):
    """Counts its calls, throws dice in eval mode, and reads 4 x 4 images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.fc = nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return F.dropout(self.fc(x.flatten(1)), 0.5, training=True)


def test_dry_run_leaves_buffers_and_random_numbers_as_they_were() -> None:
    net = Leaky()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    dry_run(net, (3, 4, 4))
    assert torch.equal(torch.rand(1), expected)
    assert net.count == 0


def test_images_that_do_not_fit_are_told_in_one_line() -> None:
    words = r"^Leaky cannot read images of 3x5x5: mat1 and mat2 .*; build it for this size .*, or give images of another$"
    with FeatureTap(Leaky(), ("fc",)) as tap, pytest.raises(FeatureMismatch, match=words):
        layer_shapes(tap, (3, 5, 5))


def test_evaluating_gives_every_module_its_own_mode_back() -> None:
    net = Net().train()
    net.body.eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert net.training
    assert not net.body.training


@pytest.mark.parametrize(("registers", "token"), [(4, False), (8, False), (3, True)])
def test_registers_are_dropped_however_many(registers: int, token: bool) -> None:
    timm = pytest.importorskip("timm")
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "num_classes": 5}
    network = timm.models.VisionTransformer(reg_tokens=registers, class_token=token, global_pool="avg", **size)
    with FeatureTap(network, ("blocks.0",)) as tap:
        assert layer_shapes(tap, (3, 32, 32)) == (LayerShape("blocks.0", 12, 4, 4),)
    visit = next(each for each in trace(network, (3, 32, 32)) if str(each.layer) == "blocks.0")
    assert visit.shape == LayerShape("", 12, 4, 4)


def test_layers_of_torchscript_are_refused_by_name() -> None:
    network = torch.jit.script(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(FeatureMismatch, match=r"'0'.*TorchScript"):
        FeatureTap(network, ("0",))
    with FeatureTap(network, ("logits",)) as tap:
        assert tap(torch.zeros(2, 4))[0].shape == (2, 3)


def test_a_quantised_feature_is_read_as_numbers() -> None:
    network = nn.Sequential(torch.ao.nn.quantized.Quantize(0.5, 0, torch.quint8), torch.ao.nn.quantized.DeQuantize())
    with FeatureTap(network, ("0",)) as tap:
        assert torch.equal(tap(torch.tensor([[0.6]]))[1][0], torch.tensor([[0.5]]))


def test_a_layer_that_is_computed_without_gradients_is_refused_in_training() -> None:
    class Half(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self[0](x)
            return self[1](x)

    with FeatureTap(Half(nn.Linear(2, 2), nn.Linear(2, 2)), ("0",)) as tap:
        with torch.no_grad():
            tap(torch.zeros(2, 2))
        with pytest.raises(FeatureMismatch, match="'0' is computed without gradients"):
            tap(torch.zeros(2, 2))
