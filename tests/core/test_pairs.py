"""The (T, S) matrix of pair losses against an explicit double loop over pairs, in plain autograd; the loss is the Gaussian."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.overrides import TorchFunctionMode

from kd_hpo.core.comparisons import similarity
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, PairPlan, Size, pair_plan
from kd_hpo.core.regressions import Gaussian, GaussianRegressor

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


def groups_of(pairs: PairMatrix) -> list[GaussianRegressor]:
    return list(pairs.feature_pairs.groups)


def phi_of(pairs: PairMatrix, t: int, s: int) -> tuple[Tensor, Tensor, Tensor]:
    """weight (C_t, C_s), bias (C_t,) and rho (C_t,) of one pair: its rows in the regressor of its group."""
    plan = pairs.plan
    for group, regressor in zip(plan.groups, groups_of(pairs), strict=True):
        if group.student == s and t in group.teachers:
            start = sum(plan.teacher[u].channels for u in group.teachers[: group.teachers.index(t)])
            rows = slice(start, start + plan.teacher[t].channels)
            return regressor.weight[rows], regressor.bias[rows], regressor.rho[rows]
    raise AssertionError(f"no regressor for pair t={t}, s={s}")


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
            weight, bias, rho = phi_of(pairs, t, s)
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
            for group in groups_of(self.pairs):
                for v in (group.bias, group.rho):
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


def test_some_group_reads_channels_that_stand_apart() -> None:
    """Else the examples would leave one way of reading targets untested."""
    regressors = [r for e in EXAMPLES.values() for r in groups_of(Setting(e).pairs)]
    assert any(r.index is not None for r in regressors)
    assert any(r.index is None and r.span.start > 0 for r in regressors)


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
            assert sum(int((g.abs() > 1e-6).any()) for g in by_phi) == 3  # weight, bias and rho of its group


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
    assert {f"feature_pairs.groups.{i}.rho" for i in range(len(setting.pairs.plan.groups))} <= names
    # a weight, a bias and a variance for each of the 2 + 3 + 4 teacher channels and each of the student layers (5 and 2 wide)
    assert sum(p.numel() for p in setting.phi) == 9 * (5 + 1 + 1) + 9 * (2 + 1 + 1)
    before = [group.rho.detach().clone() for group in groups_of(setting.pairs)]
    optimizer = torch.optim.SGD(setting.phi, lr=0.1)
    setting.pairs(setting.features, setting.targets).sum().backward()
    optimizer.step()
    for group, rho in zip(groups_of(setting.pairs), before, strict=True):
        assert (group.rho != rho).all()


def test_learned_variance_goes_to_the_squared_error() -> None:
    # One pair whose regressor is held still: the loss is least at v = mean squared error, for each channel by itself.
    setting = Setting(example([LayerShape("a", 2, 2, 2)], [LayerShape("x", 3, 2, 2)]))
    (regressor,) = groups_of(setting.pairs)
    optimizer = torch.optim.LBFGS([regressor.rho], max_iter=100, tolerance_grad=1e-12, tolerance_change=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = setting.pairs(setting.features, setting.targets).sum()
        loss.backward()
        return loss  # type: ignore[no-any-return]

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    x = setting.features[0].detach()
    error = torch.einsum("oc,bchw->bohw", regressor.weight, x) + regressor.bias[:, None, None] - setting.teacher[0]
    variance = F.softplus(regressor.rho) + FLOOR
    torch.testing.assert_close(variance, error.square().mean((0, 2, 3)), rtol=1e-6, atol=1e-8)


def test_fixed_variance_is_no_parameter_and_keeps_its_value() -> None:
    setting = Setting(EXAMPLES["several_sizes"], learn_variance=False, variance=0.3)
    assert not any("rho" in name for name, _ in setting.pairs.named_parameters())
    assert sum("rho" in name for name in setting.pairs.state_dict()) == len(groups_of(setting.pairs))  # a checkpoint has it
    pairs = PairMatrix(EXAMPLES["several_sizes"].plan, Gaussian(learn_variance=False, variance=0.3, floor=0.1)).double()
    for group in groups_of(pairs):
        assert not group.rho.requires_grad
        # the floor is of learned variances: one that is given stays what it is
        torch.testing.assert_close(F.softplus(group.rho) + group.floor, torch.full_like(group.rho, 0.3), rtol=1e-6, atol=0)
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
    for group in groups_of(pairs):
        torch.testing.assert_close(F.softplus(group.rho) + FLOOR, torch.full_like(group.rho, start))


def test_the_floor_bounds_the_loss_from_below() -> None:
    # A dead teacher channel, predicted exactly: 0.5 log(variance), which the floor stops at 0.5 log(floor).
    setting = Setting(example([LayerShape("a", 2, 2, 2)], [LayerShape("x", 3, 2, 2)]))
    (regressor,) = groups_of(setting.pairs)
    with torch.no_grad():
        for p in (regressor.weight, regressor.bias):
            p.zero_()
        regressor.rho.fill_(-1e4)
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
    for regressor, width in zip(groups_of(setting.pairs), student, strict=True):
        assert regressor.weight.shape == (sum(teacher), width)
        assert regressor.bias.shape == regressor.rho.shape == (sum(teacher),)
    torch.testing.assert_close(setting.losses(), setting.slow(), rtol=1e-8, atol=1e-12)


def test_regressors_start_the_same_for_the_same_generator() -> None:
    plan = EXAMPLES["several_sizes"].plan
    one, again, other = (PairMatrix(plan, Gaussian(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    for a, b, c in zip(*map(groups_of, (one, again, other)), strict=True):
        assert torch.equal(a.weight, b.weight)
        assert not torch.equal(a.weight, c.weight)


def test_plan_and_loss_agree_whether_pairs_meet() -> None:
    layers = [LayerShape("a", 2, 4, 4)]
    for loss in (Gaussian(), similarity()):
        with pytest.raises(ValueError, match=rf"takes a plan with meet={loss.meet}, and this one has meet={not loss.meet}"):
            PairMatrix(pair_plan(layers, layers, meet=not loss.meet), loss)


def test_resumes_from_its_state(setting: Setting) -> None:
    fresh = PairMatrix(setting.pairs.plan, Gaussian(floor=FLOOR), temperature=TEMPERATURE).double()
    fresh.load_state_dict(setting.pairs.state_dict())
    assert torch.equal(fresh(setting.features, setting.targets), setting.pairs(setting.features, setting.targets))


# Cost ----------------------------------------------------------------------------------------------------------------------


class LinearCalls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is F.linear
        return func(*args, **(kwargs or {}))


def test_one_regressor_call_a_student_layer_and_resolution(setting: Setting) -> None:
    """No loop over T x S: the pairs of a student layer that meet at one resolution share one matrix product."""
    plan = setting.pairs.plan
    T, S = plan.shape
    meeting = {
        (s, plan.target_size(t, s)) for t in range(T) for s in range(S) if not plan.logits_pair or (t, s) != (T - 1, S - 1)
    }
    calls: list[nn.Module] = []
    for module in setting.pairs.modules():
        if isinstance(module, GaussianRegressor):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    with LinearCalls() as linear:
        setting.losses()
    assert len(calls) == linear.count == len(meeting)
    if plan is EXAMPLES["several_sizes"].plan:
        assert len(meeting) == 5 < T * S  # by hand: x at 8, 4 and 2; y at 4 and 2
