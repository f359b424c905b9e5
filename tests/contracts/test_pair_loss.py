"""What every pair loss must keep, over every pair of kinds of features; a new one is a line in PAIR_LOSSES and a pass of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_hpo.core.hypergradient import squared_slopes
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.pair_losses import PAIR_LOSSES, PairLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, PairPlan, pair_plan

B = 3

MAKERS: dict[str, Callable[[], PairLoss]] = {
    **PAIR_LOSSES,
    "gaussian_mlp": partial(PAIR_LOSSES["gaussian"], regressor="mlp"),
}


@dataclass(frozen=True)
class Kind:
    """A layer as it is read, and the shape (B, ...) that it gives."""

    layer: LayerShape
    shape: tuple[int, ...]


TEACHER = [
    Kind(LayerShape("map", 6, 6, 6), (B, 6, 6, 6)),
    Kind(LayerShape("rectangle", 8, 5, 3), (B, 8, 5, 3)),
    Kind(LayerShape("channels_last", 7, 4, 4, channels_last=True), (B, 4, 4, 7)),
    Kind(LayerShape("class_token", 5, 3, 3), (B, 1 + 9, 5)),
    Kind(LayerShape("no_grid", 9, 1, 1), (B, 7, 9)),
    Kind(LayerShape("vector", 6, 1, 1), (B, 6)),
]
STUDENT = [
    Kind(LayerShape("map", 2, 4, 4), (B, 2, 4, 4)),
    Kind(LayerShape("rectangle", 3, 3, 7), (B, 3, 3, 7)),
    Kind(LayerShape("channels_last", 2, 6, 6, channels_last=True), (B, 6, 6, 2)),
    Kind(LayerShape("class_token", 4, 2, 2), (B, 1 + 4, 4)),
    Kind(LayerShape("no_grid", 2, 1, 1), (B, 5, 2)),
    Kind(LayerShape("vector", 4, 1, 1), (B, 4)),
]


class World:
    """A loss and features for the pairs of some kinds, in float64 unless told; its parameters are none of them at 0 or 1."""

    def __init__(self, name: str, teacher: list[Kind], student: list[Kind], dtype: torch.dtype = torch.float64) -> None:
        self._generator, self._dtype = torch.Generator().manual_seed(0), dtype
        self.loss: PairLoss = MAKERS[name]()
        self.plan: PairPlan = pair_plan([k.layer for k in teacher], [k.layer for k in student], meet=self.loss.meet)
        self.pairs = PairMatrix(self.plan, self.loss, generator=self._generator).double()
        with torch.no_grad():
            for p in self.pairs.parameters():
                p += 0.2 * torch.randn(p.shape, generator=self._generator, dtype=torch.float64)
        self.pairs.to(dtype)
        self.features = [self.randn(*k.shape).requires_grad_() for k in student]
        maps = [as_map(self.randn(*k.shape), k.layer) for k in teacher]
        blocks = {size: torch.cat([pooled(maps[t], size) for t in ts], 2) for size, ts in self.plan.blocks.items()}
        self.targets = Targets(self.randn(B, 2), blocks)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64).to(self._dtype)

    def weights(self, *before: int) -> Tensor:
        return self.randn(*before, *self.plan.shape).abs()

    @property
    def phi(self) -> list[Tensor]:
        return list(self.pairs.parameters())

    def losses(self, weights: Tensor | None = None) -> Tensor:
        return self.pairs.sample_losses(self.features, self.targets, weights)

    def serves(self, t: int, s: int) -> str | None:
        return self.loss.serves(self.plan.teacher[t], self.plan.student[s], self.plan.target_size(t, s))


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(name: str) -> World:
    """All 6 x 6 pairs of kinds."""
    return World(name, TEACHER, STUDENT)


def gradients(loss: Tensor, inputs: list[Any]) -> list[Tensor]:
    if not inputs:
        return []
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


def assert_all_close(actual: list[Tensor], expected: list[Tensor], scale: float = 1.0) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8 * scale, atol=1e-12 * scale)


# One pair of kinds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", STUDENT, ids=[f"s_{k.layer.name}" for k in STUDENT])
@pytest.mark.parametrize("teacher", TEACHER, ids=[f"t_{k.layer.name}" for k in TEACHER])
def test_compares_any_two_layers_or_says_why_not(name: str, teacher: Kind, student: Kind) -> None:
    world = World(name, [teacher], [student])
    losses = world.losses()
    assert losses.shape == (B, 1, 1)
    assert losses.isfinite().all()
    (gradient,) = gradients(losses.sum(), world.features)
    assert gradient.shape == student.shape
    assert gradient.isfinite().all()
    reason = world.serves(0, 0)
    if reason is None:
        assert gradient.abs().max() > 1e-8
    else:  # exactly nothing, or balancing would make much of it
        assert len(reason) > 20
        assert not losses.any()
        assert not gradient.any()


def test_a_pair_depends_on_its_own_layers_alone(world: World) -> None:
    before = world.losses()
    for s in range(6):
        features = [f + 0.1 * world.randn(*f.shape) if i == s else f for i, f in enumerate(world.features)]
        changed = ((world.pairs.sample_losses(features, world.targets) - before).abs() > 1e-12).any(0)
        assert not changed[:, [i for i in range(6) if i != s]].any()
        assert changed[:, s].tolist() == [world.serves(t, s) is None for t in range(6)]
    for t in range(6):
        blocks = {size: block.clone() for size, block in world.targets.blocks.items()}
        for size, layers in world.plan.blocks.items():
            if t in layers:
                part = blocks[size].split([world.plan.teacher[u].channels for u in layers], 2)[layers.index(t)]
                part += 0.1 * world.randn(*part.shape)
        after = world.pairs.sample_losses(world.features, Targets(world.targets.logits, blocks))
        changed = ((after - before).abs() > 1e-12).any(0)
        assert not changed[[i for i in range(6) if i != t]].any()
        assert changed[t].tolist() == [world.serves(t, s) is None for s in range(6)]


# Values --------------------------------------------------------------------------------------------------------------------


def test_matrix_is_the_mean_over_examples(world: World) -> None:
    losses = world.losses()
    assert losses.shape == (B, 6, 6)
    torch.testing.assert_close(world.pairs(world.features, world.targets), losses.mean(0), rtol=1e-12, atol=0)


def test_means_and_their_gradients_are_those_of_the_losses(world: World) -> None:
    """However the batch's mean is come by: with weights as training does it, and without a graph as forward mode does."""
    weights = world.weights()
    means, losses = world.pairs(world.features, world.targets, weights), world.losses(weights).mean(0)
    torch.testing.assert_close(means, losses, rtol=1e-8, atol=1e-12)
    inputs = world.features + world.phi
    assert_all_close(gradients(means.sum(), inputs), gradients(losses.sum(), inputs), scale=10)
    with torch.no_grad():
        torch.testing.assert_close(world.pairs(world.features, world.targets), losses, rtol=1e-8, atol=1e-12)


def test_pairs_that_are_not_needed_may_be_left_out(world: World) -> None:
    """Those that are have the same loss and gradients, and no other target is read."""
    needed, weights = torch.zeros(6, 6, dtype=torch.bool), world.weights()
    needed[[0, 3, 3], [2, 2, 5]] = True
    weights[~needed] = 0
    wanted = {size: block for size, block in world.targets.blocks.items() if size in world.pairs.sizes(needed)}
    some = world.pairs(world.features, Targets(world.targets.logits, wanted), weights, needed)
    every = world.pairs(world.features, world.targets, weights)
    torch.testing.assert_close(some[needed], every[needed], rtol=1e-8, atol=1e-12)
    assert ((some - every).abs() <= every.abs()).all()  # the others theirs, or 0
    assert_all_close(gradients(some.sum(), world.features), gradients(every.sum(), world.features), scale=10)
    assert_all_close(gradients(some[needed].sum(), world.phi), gradients(every[needed].sum(), world.phi), scale=10)


def test_single_precision_is_close_to_double(name: str, world: World) -> None:
    single = World(name, TEACHER, STUDENT, torch.float32)
    actual, expected = single.losses(), world.losses()
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-5)
    for g, e in zip(gradients(actual.sum(), single.features), gradients(expected.sum(), world.features), strict=True):
        assert g.dtype == torch.float32
        torch.testing.assert_close(g.double(), e, rtol=1e-2, atol=1e-3 * float(e.abs().max()) + 1e-10)


def test_forward_moves_nothing(world: World) -> None:
    before = {name: value.clone() for name, value in world.pairs.state_dict().items()}
    first = world.losses()
    assert torch.equal(world.losses(), first)
    for name, value in world.pairs.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_resumes_from_its_state(name: str, world: World) -> None:
    fresh = PairMatrix(world.plan, MAKERS[name](), generator=torch.Generator().manual_seed(9)).double()
    fresh.load_state_dict(world.pairs.state_dict())
    assert torch.equal(fresh(world.features, world.targets), world.pairs(world.features, world.targets))


# Weights: in the student's gradient only -----------------------------------------------------------------------------------


@pytest.mark.parametrize("of_examples", [False, True], ids=["T_S", "B_T_S"])
def test_weights_leave_values_and_regressors_alone(world: World, of_examples: bool) -> None:
    weighted, plain = world.losses(world.weights(B) if of_examples else world.weights()), world.losses()
    torch.testing.assert_close(weighted, plain, rtol=1e-10, atol=1e-14)
    assert_all_close(gradients(weighted.mean(0).sum(), world.phi), gradients(plain.mean(0).sum(), world.phi))


def test_a_pairs_weight_multiplies_its_gradient(world: World) -> None:
    weights = world.weights()
    actual = gradients(world.losses(weights).sum(), world.features)
    assert_all_close(actual, gradients((weights * world.losses()).sum(), world.features))


@pytest.mark.parametrize("of_examples", [False, True], ids=["T_S", "B_T_S"])
def test_the_students_gradient_is_linear_in_the_weights(world: World, of_examples: bool) -> None:
    shape = (B,) if of_examples else ()
    one, two = world.weights(*shape), world.weights(*shape)
    first, second, both = (gradients(world.losses(w).sum(), world.features) for w in (one, two, 2 * one - 3 * two))
    assert_all_close(both, [2 * a - 3 * b for a, b in zip(first, second, strict=True)], scale=100)


def test_weights_of_examples_that_are_equal_are_the_pairs(world: World) -> None:
    weights = world.weights()
    actual = gradients(world.losses(weights.expand(B, 6, 6)).sum(), world.features)
    assert_all_close(actual, gradients(world.losses(weights).sum(), world.features))


def test_a_pair_of_weight_zero_trains_its_regressor_only(world: World) -> None:
    losses = world.losses(torch.zeros(6, 6, dtype=torch.float64))
    for g in gradients(losses.sum(), world.features):
        assert torch.equal(g, torch.zeros_like(g))
    if world.phi:
        for t in range(6):
            for s in range(6):
                assert any((g.abs() > 1e-6).any() for g in gradients(losses[:, t, s].sum(), world.phi))


def test_no_gradient_flows_into_the_teacher(world: World) -> None:
    blocks = {size: block.clone().requires_grad_() for size, block in world.targets.blocks.items()}
    world.pairs(world.features, Targets(world.targets.logits, blocks)).sum().backward()
    assert all(block.grad is None for block in blocks.values())
    assert all(f.grad is not None for f in world.features)


# Slopes along a direction, and norms ---------------------------------------------------------------------------------------


def test_forward_mode_is_a_central_difference(world: World) -> None:
    features = [f.detach() for f in world.features]
    tangents = [world.randn(*f.shape) for f in features]

    def matrix(*features: Tensor) -> Tensor:
        return world.pairs(features, world.targets)  # type: ignore[no-any-return]

    slope = torch.func.jvp(matrix, tuple(features), tuple(tangents))[1]
    ahead, behind = (matrix(*(f + h * v for f, v in zip(features, tangents, strict=True))) for h in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)


def test_a_squared_slope_is_that_of_the_gradient_along_the_same_random_direction(world: World) -> None:
    names = [str(i) for i in range(6)]

    def losses(w: dict[str, Tensor]) -> Tensor:
        return world.pairs([w[n] for n in names], world.targets).flatten()  # type: ignore[no-any-return]

    features = {n: f.detach() for n, f in zip(names, world.features, strict=True)}
    actual = squared_slopes(losses, features, torch.Generator().manual_seed(3)).view(6, 6)
    generator = torch.Generator().manual_seed(3)
    z = [torch.randn(f.shape, generator=generator, dtype=f.dtype) for f in features.values()]
    matrix = world.losses().mean(0)
    for t in range(6):
        for s in range(6):  # only its own student layer has a gradient
            expected = (gradients(matrix[t, s], [world.features[s]])[0] * z[s]).sum().square()
            torch.testing.assert_close(actual[t, s], expected, rtol=1e-8, atol=1e-12)


def test_a_plan_of_some_pairs_compares_them_alone(world: World) -> None:
    chosen = frozenset({(0, 1), (3, 1), (2, 4), (5, 5)})
    some = PairMatrix(replace(world.plan, compared=chosen), world.loss, generator=torch.Generator()).double()
    losses = some.sample_losses(world.features, world.targets)
    assert losses.shape == (B, 6, 6)
    for t in range(6):
        for s in range(6):
            assert bool(losses[:, t, s].any()) == ((t, s) in chosen and world.serves(t, s) is None)
    assert sum(p.numel() for p in some.parameters()) <= sum(p.numel() for p in world.pairs.parameters())
    wanted = {size: block for size, block in world.targets.blocks.items() if size in some.plan.sizes}
    assert torch.equal(some.sample_losses(world.features, Targets(world.targets.logits, wanted)), losses)


def test_gradients_are_finite_for_dead_and_equal_features(world: World) -> None:
    makes: list[Callable[[Tensor], Tensor]] = [torch.zeros_like, lambda x: x[:1].expand_as(x).clone(), lambda x: x * (x > 9)]
    for make in makes:
        world.features = [make(f.detach()).requires_grad_() for f in world.features]
        losses = world.losses(world.weights())
        assert losses.isfinite().all()
        assert all(g.isfinite().all() and g.abs().max() < 1e5 for g in gradients(losses.sum(), world.features + world.phi))


def test_learns(world: World) -> None:
    """Gradient steps on features and parameters lower the sum of losses: no sign is wrong."""
    before = world.losses().sum()
    inputs = world.features + world.phi
    steps = gradients(before, inputs)
    length = math.sqrt(sum(float(g.square().sum()) for g in steps))
    with torch.no_grad():
        for x, g in zip(inputs, steps, strict=True):
            x -= 1e-3 / length * g
        fall = before.detach() - world.losses().sum()
    assert float(fall) == pytest.approx(1e-3 * length, rel=0.1)
