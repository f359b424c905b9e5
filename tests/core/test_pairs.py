"""The (T, S) matrix of pair losses against an explicit double loop over pairs, in plain autograd; the loss is the Gaussian."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from kd_hpo.core.comparisons import similarity
from kd_hpo.core.gaussian.packing import WIDEST
from kd_hpo.core.gaussian.regressors import GaussianBlock
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, PairPlan, Size, pair_plan
from kd_hpo.core.regressions import Gaussian

B, K, TEMPERATURE, FLOOR = 3, 4, 3.0, 1e-2


# The slow way --------------------------------------------------------------------------------------------------------------


def slow_pool(image: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) -> (B, C, h, w): cell i of n averages rows floor(i H / n) to ceil((i + 1) H / n), and so for columns."""
    H, W = image.shape[2:]
    h, w = size
    rows = []
    for i in range(h):
        above, below = i * H // h, -(-(i + 1) * H // h)
        cells = [image[:, :, above:below, j * W // w : -(-(j + 1) * W // w)].mean((2, 3)) for j in range(w)]
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, -2)


def slow_map(feature: Tensor, shape: LayerShape) -> Tensor:
    """Tokens lose what does not fit on the grid: the class token, which comes first."""
    if feature.dim() == 3:
        feature = feature[:, -shape.height * shape.width :].transpose(1, 2)
    return feature.reshape(B, shape.channels, shape.height, shape.width)


def blocks_of(pairs: PairMatrix) -> list[GaussianBlock]:
    return list(pairs.feature_pairs.blocks)


def slow_losses(pairs: PairMatrix, features: list[Tensor], teacher: list[Tensor], floor: float = FLOOR) -> Tensor:
    """(B, T, S): for each pair, the mean over C, H, W of minus the log density, less its constant."""
    plan = pairs.plan
    T, S = plan.shape
    rows = []
    for t in range(T):
        row = []
        for s in range(S):
            if plan.logits_pair and (t, s) == (T - 1, S - 1):
                p_t, p_s = (Categorical(logits=z.flatten(1) / TEMPERATURE) for z in (teacher[t], features[s]))
                row.append(TEMPERATURE**2 * kl_divergence(p_t, p_s))
                continue
            a, b = plan.teacher[t], plan.student[s]
            size = (min(a.height, b.height), min(a.width, b.width))
            target, x = slow_pool(slow_map(teacher[t], a), size), slow_pool(slow_map(features[s], b), size)
            weight, bias, rho = pairs.feature_pairs.of_pair(t, s)
            mean = torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None]
            deviation = (torch.log1p(rho.exp()) + floor).sqrt()[:, None, None]
            nll = -Normal(mean, deviation).log_prob(target) - 0.5 * math.log(2 * math.pi)
            row.append(nll.mean((1, 2, 3)))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


# Examples ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    plan: PairPlan
    class_tokens: dict[str, int]
    """Layers that give tokens, and how many come before the grid."""

    def features(self, layers: tuple[LayerShape, ...], generator: torch.Generator) -> list[Tensor]:
        found = []
        for layer in layers:
            positions = layer.height * layer.width
            if layer.name in self.class_tokens:
                shape: tuple[int, ...] = (B, positions + self.class_tokens[layer.name], layer.channels)
            elif positions == 1:
                shape = (B, layer.channels)
            else:
                shape = (B, layer.channels, layer.height, layer.width)
            found.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        return found


def example(teacher: list[LayerShape], student: list[LayerShape], *, logits_pair: bool = False, **class_tokens: int) -> Example:
    return Example(pair_plan(teacher, student, logits_pair=logits_pair), class_tokens)


def side_by_side(teachers: int, students: int, channels: int = 4) -> Example:
    """Maps of one size."""
    return example(
        [LayerShape(f"t{i}", 3, 2, 2) for i in range(teachers)], [LayerShape(f"s{i}", channels, 2, 2) for i in range(students)]
    )


EXAMPLES = {
    "several_sizes": example(
        [LayerShape("a", 2, 8, 8), LayerShape("b", 3, 4, 4), LayerShape("c", 4, 2, 2)],
        [LayerShape("x", 5, 8, 8), LayerShape("y", 2, 4, 4)],
    ),
    "rectangular": example(
        [LayerShape("a", 2, 3, 8), LayerShape("b", 3, 6, 2), LayerShape("c", 1, 7, 5)],
        [LayerShape("x", 2, 5, 4), LayerShape("y", 3, 2, 9), LayerShape("z", 4, 7, 5)],
    ),
    "a_larger_layer_between": example(
        [LayerShape("a", 2, 2, 2), LayerShape("b", 3, 4, 4), LayerShape("c", 4, 2, 2)],
        [LayerShape("x", 5, 4, 4), LayerShape("y", 2, 2, 2)],
    ),
    "vectors_and_tokens": example(
        [LayerShape("a", 2, 4, 4), LayerShape("b", 3, 1, 1), LayerShape("c", 4, 3, 3)],
        [LayerShape("x", 3, 3, 3), LayerShape("y", 2, 1, 1), LayerShape("z", 5, 2, 2), LayerShape("v", 3, 5, 3)],
        c=1,
        x=1,
        z=0,
    ),
    "logits_pair": example(
        [LayerShape("a", 2, 4, 4), LayerShape("b", 3, 2, 2), LayerShape("logits", K, 1, 1)],
        [LayerShape("x", 3, 4, 4), LayerShape("logits", K, 1, 1)],
        logits_pair=True,
    ),
    "logits_alone": example([LayerShape("logits", K, 1, 1)], [LayerShape("logits", K, 1, 1)], logits_pair=True),
}


class Setting:
    """A PairMatrix whose every channel has a bias and a variance of its own, with features, teacher and targets."""

    def __init__(self, example: Example, **options: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        plan = example.plan
        options = {"floor": FLOOR} | options
        self.pairs = PairMatrix(plan, Gaussian(**options), temperature=TEMPERATURE, generator=generator).double()
        self.floor = options["floor"] if options.get("learn_variance", True) else 0.0
        with torch.no_grad():
            for block in blocks_of(self.pairs):
                for v in (block.bias, block.rho):
                    v += torch.randn(v.shape, generator=generator, dtype=torch.float64)
        self.features = [f.requires_grad_() for f in example.features(plan.student, generator)]
        self.teacher = example.features(plan.teacher, generator)
        self.weights = torch.rand(plan.shape, generator=generator, dtype=torch.float64)
        self.weights_of_examples = torch.rand((B, *plan.shape), generator=generator, dtype=torch.float64)
        blocks = {}
        for size, layers in plan.blocks.items():
            maps = [slow_pool(slow_map(self.teacher[t], plan.teacher[t]), size) for t in layers]
            blocks[size] = torch.cat(maps, 1).flatten(2).transpose(1, 2).contiguous()
        self.targets = Targets(self.teacher[-1].flatten(1), blocks)

    @property
    def phi(self) -> list[nn.Parameter]:
        return list(self.pairs.parameters())

    def slow(self) -> Tensor:
        return slow_losses(self.pairs, self.features, self.teacher, self.floor)

    def losses(self, weights: Tensor | None = None) -> Tensor:
        return self.pairs.sample_losses(self.features, self.targets, weights)


@pytest.fixture(params=EXAMPLES.values(), ids=EXAMPLES)
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(request.param)


def assert_equal_gradients(actual: Tensor, expected: Tensor, inputs: list[Any]) -> None:
    """Of two losses, in every input."""
    got = torch.autograd.grad(actual, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad(expected, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-8, atol=1e-12)


# Values and plain gradients ------------------------------------------------------------------------------------------------


def test_equals_the_slow_loop(setting: Setting) -> None:
    actual, expected = setting.losses(), setting.slow()
    assert actual.shape == (B, *setting.pairs.plan.shape)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(setting.pairs(setting.features, setting.targets), expected.mean(0), rtol=1e-8, atol=1e-12)
    mix = setting.weights_of_examples  # a sum that tells examples and pairs apart
    assert_equal_gradients((mix * actual).sum(), (mix * expected).sum(), setting.features + setting.phi)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_pairs_are_compared_on_the_examples_that_have_targets(setting: Setting, weighted: bool) -> None:
    """The first two of three; the logits on all."""
    first = Targets(setting.targets.logits, {size: block[:2] for size, block in setting.targets.blocks.items()})
    weights = setting.weights if weighted else None
    actual, slow = setting.pairs(setting.features, first, weights), setting.slow()
    expected = slow[:2].mean(0)
    if setting.pairs.plan.logits_pair:
        expected = expected.index_put((torch.tensor(-1), torch.tensor(-1)), slow.mean(0)[-1, -1])
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-12)
    pull = expected if weights is None else weights * expected
    assert_equal_gradients(actual.sum(), pull.sum(), setting.features)
    each = setting.pairs.sample_losses(setting.features, first, weights)
    torch.testing.assert_close(each, slow[: len(each)], rtol=1e-8, atol=1e-12)
    assert len(each) == (2 if setting.targets.blocks else B)


@pytest.mark.parametrize("teachers", [(0, 2), (1, 2), (1,)])
def test_some_of_the_channels_of_a_resolution(teachers: tuple[int, ...]) -> None:
    """Those that stand apart, and those that stand side by side behind others."""
    whole = Setting(side_by_side(3, 2, channels=2))
    some = PairMatrix(replace(whole.pairs.plan, compared=frozenset((t, 1) for t in teachers)), Gaussian(floor=FLOOR)).double()
    (block,) = blocks_of(some)
    channels = block.packed.channels_of(teachers)
    assert (channels[-1] - channels[0] == len(channels) - 1) == (teachers != (0, 2))
    with torch.no_grad():
        for t in teachers:
            for mine, theirs in zip(some.feature_pairs.of_pair(t, 1), whole.pairs.feature_pairs.of_pair(t, 1), strict=True):
                assert mine.shape == theirs.shape
            rows = torch.cat([torch.arange(9).view(3, 3)[u] for u in teachers])
            block.weight.copy_(blocks_of(whole.pairs)[0].weight[2:, rows])
            block.bias.copy_(blocks_of(whole.pairs)[0].bias[1:, rows])
            block.rho.copy_(blocks_of(whole.pairs)[0].rho[1:, rows])
        for matrix in (some(whole.features, whole.targets), some.sample_losses(whole.features, whole.targets).mean(0)):
            expected = torch.zeros(3, 2, dtype=torch.float64)
            expected[list(teachers), 1] = whole.slow().mean(0)[list(teachers), 1]
            torch.testing.assert_close(matrix, expected, rtol=1e-8, atol=1e-12)


# Weights: in the student's gradient only -----------------------------------------------------------------------------------


@pytest.mark.parametrize("of_examples", [False, True], ids=["T_S", "B_T_S"])
def test_weights_act_on_the_student_alone(setting: Setting, of_examples: bool) -> None:
    weights = setting.weights_of_examples if of_examples else setting.weights
    actual, plain = setting.losses(weights), setting.slow()
    torch.testing.assert_close(actual, plain, rtol=1e-8, atol=1e-12)  # the value knows no weight
    total = actual.mean(0).sum()
    assert_equal_gradients(total, (weights * plain).sum((1, 2)).mean(), setting.features)
    if setting.phi:
        assert_equal_gradients(total, plain.mean(0).sum(), setting.phi)


def test_weights_act_on_the_student_alone_in_the_batch_mean(setting: Setting) -> None:
    actual, plain = setting.pairs(setting.features, setting.targets, setting.weights), setting.slow().mean(0)
    torch.testing.assert_close(actual, plain, rtol=1e-8, atol=1e-12)
    mix = setting.weights_of_examples[0]  # tells pairs apart
    assert_equal_gradients((mix * actual).sum(), (mix * setting.weights * plain).sum(), setting.features)
    if setting.phi:
        assert_equal_gradients((mix * actual).sum(), (mix * plain).sum(), setting.phi)


def test_a_pair_of_weight_zero_still_trains_its_regressor(setting: Setting) -> None:
    T, S = setting.pairs.plan.shape
    for t in range(T):
        for s in range(S):
            weights = torch.zeros(T, S, dtype=torch.float64)
            loss = setting.losses(weights)[:, t, s].sum()
            for g in torch.autograd.grad(loss, setting.features, retain_graph=True, allow_unused=True, materialize_grads=True):
                assert torch.equal(g, torch.zeros_like(g))
            if setting.pairs.plan.logits_pair and (t, s) == (T - 1, S - 1):
                continue
            by_phi = torch.autograd.grad(loss, setting.phi, retain_graph=True, allow_unused=True, materialize_grads=True)
            assert sum(int((g.abs() > 1e-6).any()) for g in by_phi) == 3  # weight, bias and rho of its block


def test_one_weight_reaches_one_pair(setting: Setting) -> None:
    # Only the pair (0, S - 1) is on: the student's gradient is that pair's, from the slow loop.
    weights = torch.zeros_like(setting.weights)
    weights[0, -1] = 2.0
    assert_equal_gradients(setting.losses(weights).sum(), 2.0 * setting.slow()[:, 0, -1].sum(), setting.features)


def test_no_gradient_flows_into_the_teacher(setting: Setting) -> None:
    targets = Targets(
        setting.targets.logits.clone().requires_grad_(),
        {k: v.clone().requires_grad_() for k, v in setting.targets.blocks.items()},
    )
    setting.pairs(setting.features, targets).sum().backward()
    assert targets.logits.grad is None
    assert all(block.grad is None for block in targets.blocks.values())


# The logits pair -----------------------------------------------------------------------------------------------------------


def test_logits_stand_in_the_last_cell() -> None:
    setting = Setting(EXAMPLES["logits_pair"])
    p_t, p_s = (Categorical(logits=z / TEMPERATURE) for z in (setting.teacher[-1], setting.features[-1]))
    expected = TEMPERATURE**2 * kl_divergence(p_t, p_s)
    torch.testing.assert_close(setting.losses()[:, -1, -1], expected, rtol=1e-8, atol=1e-12)
    (gradient,) = torch.autograd.grad(setting.losses(setting.weights)[:, -1, -1].sum(), setting.features[-1])
    # d KL / d z_s = temperature (p_s - p_t), times the pair's weight
    expected = setting.weights[-1, -1] * TEMPERATURE * (p_s.probs - p_t.probs)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


def test_logits_alone_need_no_parameters() -> None:
    assert Setting(EXAMPLES["logits_alone"]).phi == []


# Variances -----------------------------------------------------------------------------------------------------------------


def test_learned_variances_are_trained() -> None:
    """A known fault elsewhere: variances in a plain list, in no `parameters()` and so never trained."""
    setting = Setting(EXAMPLES["several_sizes"])
    names = {name for name, _ in setting.pairs.named_parameters()}
    assert {f"feature_pairs.blocks.{i}.rho" for i in range(len(blocks_of(setting.pairs)))} <= names
    before = {(t, s): setting.pairs.feature_pairs.of_pair(t, s)[2].detach().clone() for t in range(3) for s in range(2)}
    optimizer = torch.optim.SGD(setting.phi, lr=0.1)
    setting.pairs(setting.features, setting.targets).sum().backward()
    optimizer.step()
    for (t, s), rho in before.items():
        assert len(rho) == setting.pairs.plan.teacher[t].channels
        assert (setting.pairs.feature_pairs.of_pair(t, s)[2] != rho).all()


def test_learned_variance_goes_to_the_squared_error() -> None:
    # One pair whose regressor is held still: the loss is least at v = mean squared error, for each channel by itself.
    setting = Setting(example([LayerShape("a", 2, 2, 2)], [LayerShape("x", 3, 2, 2)]))
    (block,) = blocks_of(setting.pairs)
    optimizer = torch.optim.LBFGS([block.rho], max_iter=100, tolerance_grad=1e-12, tolerance_change=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = setting.pairs(setting.features, setting.targets).sum()
        loss.backward()
        return loss  # type: ignore[no-any-return]

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    x = setting.features[0].detach()
    weight, bias, rho = setting.pairs.feature_pairs.of_pair(0, 0)
    error = torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None] - setting.teacher[0]
    variance = F.softplus(rho) + FLOOR
    torch.testing.assert_close(variance, error.square().mean((0, 2, 3)), rtol=1e-6, atol=1e-8)


def test_fixed_variance_is_no_parameter_and_keeps_its_value() -> None:
    setting = Setting(EXAMPLES["several_sizes"], learn_variance=False, variance=0.3)
    assert not any("rho" in name for name, _ in setting.pairs.named_parameters())
    assert sum("rho" in name for name in setting.pairs.state_dict()) == len(blocks_of(setting.pairs))  # a checkpoint has it
    pairs = PairMatrix(EXAMPLES["several_sizes"].plan, Gaussian(learn_variance=False, variance=0.3, floor=0.1)).double()
    for block in blocks_of(pairs):
        assert not block.rho.requires_grad
        # the floor is of learned variances: one that is given stays what it is
        torch.testing.assert_close(F.softplus(block.rho) + block.floor, torch.full_like(block.rho, 0.3), rtol=1e-6, atol=0)
    torch.testing.assert_close(setting.losses(), setting.slow(), rtol=1e-8, atol=1e-12)


def test_fixed_variance_sets_how_strongly_a_pair_pulls() -> None:
    # The loss is then a squared error over 2 sigma^2: half the variance, twice the gradient.
    gradients = []
    for variance in (0.5, 1.0):
        example_ = EXAMPLES["several_sizes"]
        pairs = PairMatrix(example_.plan, Gaussian(learn_variance=False, variance=variance)).double()
        setting = Setting(example_)
        gradients.append(torch.autograd.grad(pairs(setting.features, setting.targets).sum(), setting.features[0])[0])
    torch.testing.assert_close(gradients[0], 2 * gradients[1], rtol=1e-6, atol=1e-12)  # rho starts in float32


@pytest.mark.parametrize("start", [0.02, 0.7, 5.0])
def test_learned_variance_starts_where_asked(start: float) -> None:
    pairs = PairMatrix(EXAMPLES["several_sizes"].plan, Gaussian(variance=start, floor=FLOOR))
    for block in blocks_of(pairs):
        torch.testing.assert_close(F.softplus(block.rho) + FLOOR, torch.full_like(block.rho, start))


def test_the_floor_bounds_the_loss_from_below() -> None:
    # A dead teacher channel, predicted exactly: 0.5 log(variance), which the floor stops at 0.5 log(floor).
    setting = Setting(example([LayerShape("a", 2, 2, 2)], [LayerShape("x", 3, 2, 2)]))
    (block,) = blocks_of(setting.pairs)
    with torch.no_grad():
        for p in (block.weight, block.bias):
            p.zero_()
        block.rho.fill_(-1e4)
    targets = Targets(setting.targets.logits, {(2, 2): torch.zeros(B, 4, 2, dtype=torch.float64)})
    loss = setting.pairs(setting.features, targets)
    torch.testing.assert_close(loss, torch.full((1, 1), 0.5 * math.log(FLOOR), dtype=torch.float64), rtol=1e-8, atol=0)


# Shapes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher_side", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("student_side", [1, 3, 4, 8])
def test_mismatched_maps_meet(teacher_side: int, student_side: int) -> None:
    """A known fault elsewhere: no pooling, so that maps of different sizes fail."""
    setting = Setting(example([LayerShape("a", 2, teacher_side, teacher_side)], [LayerShape("x", 3, student_side, student_side)]))
    torch.testing.assert_close(setting.losses(), setting.slow(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("teacher", "student"), [((1, 7), (2, 3, 5)), ((64,), (16,)), ((3, 3, 9), (3,))])
def test_channels_come_from_the_layers(teacher: tuple[int, ...], student: tuple[int, ...]) -> None:
    """A known fault elsewhere: channels typed in by hand."""
    setting = Setting(
        example([LayerShape("", c, 2, 2) for c in teacher], [LayerShape("", c, 2, 2) for c in student]),
    )
    for t, channels in enumerate(teacher):
        for s, width in enumerate(student):
            assert [tuple(p.shape) for p in setting.pairs.feature_pairs.of_pair(t, s)] == [
                (channels, width),
                (channels,),
                (channels,),
            ]
    torch.testing.assert_close(setting.losses(), setting.slow(), rtol=1e-8, atol=1e-12)


def test_regressors_start_the_same_for_the_same_generator() -> None:
    plan = EXAMPLES["several_sizes"].plan
    one, again, other = (PairMatrix(plan, Gaussian(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    for t in range(3):
        for s in range(2):
            a, b, c = (pairs.feature_pairs.of_pair(t, s)[0] for pairs in (one, again, other))
            assert torch.equal(a, b)
            assert not torch.equal(a, c)
            assert 0 < a.abs().max() <= plan.student[s].channels ** -0.5


def test_plan_and_loss_agree_whether_pairs_meet() -> None:
    layers = [LayerShape("a", 2, 4, 4)]
    for loss in (Gaussian(), similarity()):
        with pytest.raises(ValueError, match=f"meet={loss.meet}"):
            PairMatrix(pair_plan(layers, layers, meet=not loss.meet), loss)


def test_resumes_from_its_state(setting: Setting) -> None:
    fresh = PairMatrix(setting.pairs.plan, Gaussian(floor=FLOOR), temperature=TEMPERATURE).double()
    fresh.load_state_dict(setting.pairs.state_dict())
    assert torch.equal(fresh(setting.features, setting.targets), setting.pairs(setting.features, setting.targets))


# Cost ----------------------------------------------------------------------------------------------------------------------


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)
        return func(*args, **(kwargs or {}))


def products_of(setting: Setting) -> int:
    with Products() as products:
        setting.pairs(setting.features, setting.targets, setting.weights).sum().backward()
    return products.count


def test_work_is_by_resolution_and_not_by_pair() -> None:
    """No loop over T x S, nor over T or S: all pairs that meet at one resolution share their products."""
    assert products_of(Setting(side_by_side(10, 10))) == products_of(Setting(side_by_side(2, 2))) > 0
    sizes = example([LayerShape(c, 6, n, n) for c, n in zip("abc", (8, 4, 2), strict=True)], [LayerShape("x", 5, 8, 8)] * 3)
    assert len(blocks_of(Setting(sizes).pairs)) == 3  # of 9 pairs that meet at 8, 4 and 2


def test_what_is_not_needed_is_neither_read_nor_pooled() -> None:
    sizes = example([LayerShape(c, 6, n, n) for c, n in zip("abc", (8, 4, 2), strict=True)], [LayerShape("x", 5, 8, 8)] * 3)
    setting, needed = Setting(sizes), torch.zeros(3, 3, dtype=torch.bool)
    needed[1, 2] = True
    assert setting.pairs.sizes(None) == {(8, 8), (4, 4), (2, 2)}
    assert setting.pairs.sizes(needed) == {(4, 4)}
    setting.pairs(setting.features, setting.targets, setting.weights, needed).sum().backward()
    assert [f.grad is not None for f in setting.features] == [False, False, True]
    assert all((block.weight.grad is not None) == (block.packed.size == (4, 4)) for block in blocks_of(setting.pairs))


def test_layers_that_are_wide_together_or_alone_have_blocks_of_their_own() -> None:
    wide = Setting(side_by_side(100, 3, channels=WIDEST // 2))  # two fit in one
    assert [len(block.packed.groups) for block in blocks_of(wide.pairs)] == [2, 1]
    alone = Setting(side_by_side(2, 3, channels=7))  # each has more channels than the six that it is compared with
    assert [len(block.packed.groups) for block in blocks_of(alone.pairs)] == [1, 1, 1]
    for setting in (wide, alone):
        actual, plain = setting.pairs(setting.features, setting.targets, setting.weights), setting.slow().mean(0)
        torch.testing.assert_close(actual, plain, rtol=1e-8, atol=1e-12)
        assert_equal_gradients(actual.sum(), (setting.weights * plain).sum(), setting.features)
        assert_equal_gradients(actual.sum(), plain.sum(), setting.phi)
