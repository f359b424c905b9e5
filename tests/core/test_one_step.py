"""The one-step hypergradient of a small network, against autograd straight through the optimiser's update.

The update formulas stand here a second time, differentiable in the gradient; each is checked against the step that the
real optimiser takes, and only then used as the judge.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from kd_hpo.core.directions import InnerStep, OneStep, update_jacobian
from kd_hpo.core.hypergradient import central_difference, hypergradient
from kd_hpo.core.pair_losses import PAIR_LOSSES, PairLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.params import Params
from kd_hpo.core.plan import LayerShape, PairPlan, pair_plan
from kd_hpo.core.regressions import Gaussian

B, K = 6, 4
State = dict[str, Tensor]
Update = Callable[[Tensor, Tensor, State], Tensor]
"""(w, dL/dw, the optimiser's state of w before the step) -> w', differentiable in dL/dw."""


class Network(nn.Module):
    """Convolution, batch norm, ReLU and max-pool; gives its logits and three features: two maps and the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, K)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:  # (B, 3, 8, 8)
        map1 = F.max_pool2d(F.relu(self.norm1(self.first(x))), 2)  # (B, 4, 4, 4)
        map2 = F.relu(self.norm2(self.second(map1)))  # (B, 5, 4, 4)
        logits = self.head(map2.mean((2, 3)))
        return logits, [map1, map2, logits]


TEACHER = [LayerShape("early", 6, 8, 8), LayerShape("late", 3, 2, 2), LayerShape("logits", K, 1, 1)]
STUDENT = [LayerShape("map1", 4, 4, 4), LayerShape("map2", 5, 4, 4), LayerShape("logits", K, 1, 1)]
PLAN = pair_plan(TEACHER, STUDENT, logits_pair=True)
GAUSSIAN = Gaussian()


@dataclass(frozen=True)
class Case:
    optimizer: Callable[[list[nn.Parameter]], Optimizer]
    update: Update


def sgd(lr: float, momentum: float, weight_decay: float, nesterov: bool) -> Case:
    def update(w: Tensor, g: Tensor, state: State) -> Tensor:
        g = g + weight_decay * w
        velocity = momentum * state["momentum_buffer"] + g if "momentum_buffer" in state else g
        return w - lr * (g + momentum * velocity if nesterov else velocity)

    return Case(lambda p: SGD(p, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay), update)


def adam(lr: float, weight_decay: float, decoupled: bool, betas: tuple[float, float] = (0.9, 0.98)) -> Case:
    beta1, beta2 = betas

    def update(w: Tensor, g: Tensor, state: State) -> Tensor:
        step = float(state["step"]) + 1 if state else 1.0
        mean, square = (state["exp_avg"], state["exp_avg_sq"]) if state else (torch.zeros_like(w), torch.zeros_like(w))
        if decoupled:
            w = w * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * w
        mean = beta1 * mean + (1 - beta1) * g
        square = beta2 * square + (1 - beta2) * g * g
        moved = square > 0  # sqrt has no slope at 0; where a gradient has always been 0, the step is lr g / eps
        root = torch.where(moved, (torch.where(moved, square, 1.0) / (1 - beta2**step)).sqrt(), 0.0)
        return w - lr * mean / (1 - beta1**step) / (root + 1e-8)

    kind = AdamW if decoupled else Adam
    return Case(lambda p: kind(p, lr=lr, betas=betas, weight_decay=weight_decay, eps=1e-8), update)


CASES = {
    "sgd": sgd(0.1, 0.0, 0.0, nesterov=False),
    "momentum": sgd(0.1, 0.9, 5e-4, nesterov=False),
    "nesterov": sgd(0.1, 0.8, 5e-4, nesterov=True),
    "adam": adam(1e-2, 0.0, decoupled=False),
    "adam_weight_decay": adam(1e-2, 0.1, decoupled=False),
    "adamw": adam(1e-2, 0.3, decoupled=True),
}


class World:
    """A network after some real steps, and one more inner step to take, with lam on the pairs, two of them at 0."""

    def __init__(self, case: Case, steps: int, loss: PairLoss = GAUSSIAN) -> None:
        self._generator = torch.Generator().manual_seed(1)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.network = Network().double().train()
        self.plan = pair_plan(TEACHER, STUDENT, logits_pair=True, meet=loss.meet)
        self.pairs = PairMatrix(self.plan, loss, generator=self._generator).double()
        with torch.no_grad():
            for name, p in self.pairs.named_parameters():
                if name.endswith("rho"):
                    p += 0.5 * self._rand(len(p))  # a variance of its own for each channel
        self.lam = self._rand(*PLAN.shape).square()
        self.lam[1, 0] = self.lam[2, 2] = 0
        self.lam /= self.lam.sum()
        self.scale = 3 * (0.5 + self._rand(*PLAN.shape))
        self.optimizer = case.optimizer(list(self.network.parameters()))
        for _ in range(steps):
            self.draw()
            self.backward()
            self.optimizer.step()
        self.draw()  # the batch of the step that is differentiated
        self.outer_x, self.outer_labels = self._randn(B, 3, 8, 8), self._labels()

    def draw(self) -> None:
        self.x, self.labels = self._randn(B, 3, 8, 8), self._labels()
        widths = {size: sum(TEACHER[t].channels for t in layers) for size, layers in self.plan.blocks.items()}
        blocks = {(h, w): self._randn(B, h * w, channels) for (h, w), channels in widths.items()}
        self.targets = Targets(3 * self._randn(B, K), blocks)

    def inner_loss(self, w: Params, lam: Tensor) -> Tensor:
        logits, features = self.run(w, self.x)
        return F.cross_entropy(logits, self.labels) + (lam * self.scale * self.pairs(features, self.targets)).sum()

    def outer_loss(self, w: Params) -> Tensor:
        return F.cross_entropy(self.run(w, self.outer_x)[0], self.outer_labels)

    def pair_losses(self, w: Params) -> Tensor:
        return self.pairs(self.run(w, self.x)[1], self.targets)  # type: ignore[no-any-return]

    def run(self, w: Params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """In train mode, on copies of the buffers, so that the running statistics stay."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        return functional_call(self.network, {**w, **buffers}, (x,))  # type: ignore[no-any-return]

    @property
    def w(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def backward(self) -> None:
        self.optimizer.zero_grad()
        self.inner_loss(dict(self.w), self.lam).backward()  # type: ignore[no-untyped-call]

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, dtype=torch.float64)

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def _labels(self) -> Tensor:
        return torch.randint(K, (B,), generator=self._generator)


def through_the_update(world: World, update: Update) -> tuple[Params, Tensor]:
    """w' and dL_out/dlam (T, S), by double backward through gradient, update and outer loss."""
    lam = world.lam.clone().requires_grad_()
    w = {name: p.detach().clone().requires_grad_() for name, p in world.w.items()}
    gradients = torch.autograd.grad(world.inner_loss(w, lam), list(w.values()), create_graph=True)
    states = {name: {k: v.clone() for k, v in world.optimizer.state[p].items() if v is not None} for name, p in world.w.items()}
    stepped = {name: update(w[name], g, states[name]) for name, g in zip(w, gradients, strict=True)}
    (by_lam,) = torch.autograd.grad(world.outer_loss(stepped), lam)
    return {name: p.detach() for name, p in stepped.items()}, by_lam


def no_hessian(v: Params, number: int) -> Params:
    raise AssertionError("one step needs no Hessian")


def the_library_way(world: World) -> tuple[Params, Params]:
    """Takes the real step; gives w before it, and q of the step."""
    before = {name: p.detach().clone() for name, p in world.w.items()}
    world.backward()
    world.optimizer.step()
    gradients = torch.autograd.grad(world.outer_loss(dict(world.w)), list(world.w.values()))
    outer = dict(zip(world.w, gradients, strict=True))
    return before, OneStep()(outer, InnerStep(lambda: update_jacobian(world.optimizer, before, world.w), no_hessian))


@pytest.mark.parametrize("steps", [0, 3], ids=["first_step", "fourth_step"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matches_autograd_through_the_update(case: Case, steps: int) -> None:
    world = World(case, steps)
    stepped, expected = through_the_update(world, case.update)
    before, q = the_library_way(world)
    for name, p in world.w.items():  # the judge knows the optimiser
        torch.testing.assert_close(p.detach(), stepped[name], rtol=1e-9, atol=1e-12)
    actual = hypergradient(world.pair_losses, before, q, world.scale)
    assert actual.shape == PLAN.shape
    size = expected.abs().max()
    assert (expected.abs() > 1e-4 * size).all()  # every pair says something, those with weight 0 too
    torch.testing.assert_close(actual / size, expected / size, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES)
def test_matches_autograd_whatever_the_pair_loss(loss: Callable[[], PairLoss]) -> None:
    case = CASES["nesterov"]
    world = World(case, 1, loss())
    _, expected = through_the_update(world, case.update)
    actual = hypergradient(world.pair_losses, *the_library_way(world), world.scale)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))
    for t, teacher in enumerate(TEACHER):
        for s, student in enumerate(STUDENT):
            says_something = bool(expected[t, s].abs() > 1e-10)
            assert says_something == (loss().serves(teacher, student, world.plan.target_size(t, s)) is None or t == s == 2)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_agrees_with_central_difference(name: str) -> None:
    world = World(CASES[name], 3)
    before, q = the_library_way(world)
    length = torch.cat([v.flatten() for v in q.values()]).norm()
    q = {name: v / length for name, v in q.items()}
    actual = hypergradient(world.pair_losses, before, q, world.scale)
    with torch.no_grad():  # ReLU and max-pool have kinks: a short step keeps clear of them
        expected = central_difference(world.pair_losses, before, q, world.scale, epsilon=1e-6)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


def test_running_statistics_do_not_move() -> None:
    world = World(CASES["momentum"], 0)
    world.network(world.x)  # statistics that are not the start's
    before, q = the_library_way(world)
    buffers = copy.deepcopy(dict(world.network.named_buffers()))
    hypergradient(world.pair_losses, before, q, world.scale)
    assert len(buffers) == 6
    for name, buffer in world.network.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_leaves_weights_and_gradients_alone() -> None:
    world = World(CASES["adam"], 1)
    before, q = the_library_way(world)
    kept = copy.deepcopy([before, {name: (p.detach(), p.grad) for name, p in world.w.items()}])
    hypergradient(world.pair_losses, before, q, world.scale)
    for name, p in world.w.items():
        assert torch.equal(before[name], kept[0][name])
        assert torch.equal(p, kept[1][name][0])
        assert torch.equal(p.grad, kept[1][name][1])


# update_jacobian on its own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_jacobian_is_the_derivative_of_the_step(case: Case) -> None:
    # The update is elementwise, so the sum of w' has - dw'/dg as its gradient, element by element.
    generator = torch.Generator().manual_seed(3)
    p = nn.Parameter(torch.randn(7, generator=generator, dtype=torch.float64))
    optimizer = case.optimizer([p])
    for step in range(5):
        p.grad = torch.randn(7, generator=generator, dtype=torch.float64)
        before = p.detach().clone()
        g = p.grad.clone().requires_grad_()
        state = {k: v.clone() for k, v in optimizer.state[p].items() if v is not None}
        (expected,) = torch.autograd.grad(-case.update(before, g, state).sum(), g)
        optimizer.step()
        (actual,) = update_jacobian(optimizer, {"p": before}, {"p": p}).values()
        torch.testing.assert_close(actual, expected, rtol=1e-8 if step else 1e-6, atol=1e-12)


def test_momentum_leaves_the_jacobian_and_nesterov_multiplies_it() -> None:
    for nesterov, expected in ((False, 0.1), (True, 0.1 * 1.9)):  # lr, and lr (1 + momentum)
        p = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = SGD([p], lr=0.1, momentum=0.9, nesterov=nesterov)
        for _ in range(3):
            p.grad = p.detach().clone()
            before = p.detach().clone()
            optimizer.step()
        jacobian = update_jacobian(optimizer, {"p": before}, {"p": p})["p"]
        torch.testing.assert_close(jacobian, torch.full((3,), expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_jacobian_reads_each_group_of_the_optimiser() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SGD([{"params": [a], "lr": 0.5}, {"params": [b]}], lr=0.25)
    a.grad, b.grad = torch.ones(2), torch.ones(2)
    optimizer.step()
    jacobian = update_jacobian(optimizer, {"a": torch.ones(2), "b": torch.ones(2)}, {"b": b, "a": a})
    assert jacobian["a"].tolist() == [0.5, 0.5]
    assert jacobian["b"].tolist() == [0.25, 0.25]


def test_adam_where_the_gradient_has_always_been_zero() -> None:
    # First step, g = 0: w' = w - lr g / (|g| + eps), whose slope at 0 is - lr / eps. Finite, where sqrt has none.
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = Adam([p], lr=1e-3, eps=1e-4)
    p.grad = torch.tensor([0.0, 1.0], dtype=torch.float64)
    optimizer.step()
    jacobian = update_jacobian(optimizer, {"p": torch.ones(2, dtype=torch.float64)}, {"p": p})["p"]
    # At g = 1: d/dg g / (g + eps) = eps / (1 + eps)^2.
    expected = torch.tensor([10.0, 1e-3 * 1e-4 / (1 + 1e-4) ** 2], dtype=torch.float64)
    torch.testing.assert_close(jacobian, expected, rtol=1e-8, atol=1e-12)


def test_unknown_optimiser_is_refused() -> None:
    class MySGD(SGD):
        """A subclass may take another step than its parent."""

    for kind in (RMSprop, MySGD):
        p = nn.Parameter(torch.ones(2))
        optimizer = kind([p], lr=0.1)
        p.grad = torch.ones(2)
        optimizer.step()
        with pytest.raises(TypeError, match=f"{kind.__name__}; known: .*SGD.*AdamW"):
            update_jacobian(optimizer, {"p": torch.ones(2)}, {"p": p})


def test_plan_meets_at_several_resolutions() -> None:
    """The network's test covers pooled students, pooled teachers and the logits pair."""
    assert isinstance(PLAN, PairPlan)
    assert {(g.student, g.size) for g in PLAN.groups} == {
        (0, (4, 4)), (0, (2, 2)), (0, (1, 1)), (1, (4, 4)), (1, (2, 2)), (1, (1, 1)), (2, (1, 1)),
    }  # fmt: skip
