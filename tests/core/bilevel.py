"""A small bilevel problem in float64, and the updates of the optimisers written a second time, differentiable: the judge of
the hypergradients. The tests check each update against the real step before they use it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, AdamW, Optimizer

from kd_hpo.core.directions import InnerStep
from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.params import Params
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.core.regressions import Gaussian
from kd_hpo.core.updates import next_update

B, K = 6, 4
State = dict[str, Tensor]
Update = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]
"""(w, dL/dw, the optimiser's state of w before the step) -> w' and the state after it, differentiable in all of them."""


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
    def update(w: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
        g = g + weight_decay * w
        velocity = momentum * state["momentum_buffer"] + g if "momentum_buffer" in state else g
        return w - lr * (g + momentum * velocity if nesterov else velocity), {"momentum_buffer": velocity} if momentum else {}

    return Case(lambda p: SGD(p, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay), update)


def adam(lr: float, weight_decay: float, decoupled: bool, betas: tuple[float, float] = (0.9, 0.98)) -> Case:
    beta1, beta2 = betas

    def update(w: Tensor, g: Tensor, state: State) -> tuple[Tensor, State]:
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
        new = {"step": torch.tensor(step), "exp_avg": mean, "exp_avg_sq": square}
        return w - lr * mean / (1 - beta1**step) / (root + 1e-8), new

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
        self._generator = torch.Generator().manual_seed(4)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.network = Network().double().train()
        self.plan = replace(pair_plan(TEACHER, STUDENT, logits_pair=True, meet=loss.meet), examples=2 * B)
        self.pairs = PairMatrix(self.plan, loss, generator=self._generator).double()
        with torch.no_grad():
            for name, p in self.pairs.named_parameters():
                if name.endswith("rho"):
                    p += 0.5 * self._rand(*p.shape)  # a variance of its own for each channel
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
        shares, negatives = F.one_hot(self.labels, K).double(), torch.arange(B, 2 * B).repeat(B, 1)
        self.targets = Targets(3 * self._randn(B, K), blocks, shares, rows=torch.arange(B), negatives=negatives)

    def inner_loss(self, w: Params, lam: Tensor) -> Tensor:
        logits, features = self.run(w, self.x)
        return F.cross_entropy(logits, self.labels) + (lam * self.scale * self.pairs(features, self.targets)).sum()

    def outer_loss(self, w: Params) -> Tensor:
        return F.cross_entropy(self.run(w, self.outer_x)[0], self.outer_labels)

    def run(self, w: Params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """In train mode, on copies of the buffers, so that the running statistics stay."""
        buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        return functional_call(self.network, {**w, **buffers}, (x,))  # type: ignore[no-any-return]

    def inner_step(self, number: int = 0) -> InnerStep:
        """The step that is about to be taken, as directions see it."""
        x, labels, targets = self.x, self.labels, self.targets
        w = {name: p.detach().clone() for name, p in self.w.items()}

        def inner_loss(w: Params) -> Tensor:
            logits, features = self.run(w, x)
            return F.cross_entropy(logits, labels) + (self.lam * self.scale * self.pairs(features, targets)).sum()

        def hessian(w: Params, v: Params, batch: int) -> Params:
            assert batch == 0
            leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
            gradients = torch.autograd.grad(inner_loss(leaves), list(leaves.values()), create_graph=True)
            products = torch.autograd.grad(gradients, list(leaves.values()), [v[name] for name in leaves])
            return dict(zip(leaves, products, strict=True))

        def pair_losses(w: Params) -> Tensor:
            return self.pairs(self.run(w, x)[1], targets)  # type: ignore[no-any-return]

        return InnerStep(number, w, self.scale, pair_losses, hessian, next_update(self.optimizer, self.w))

    def state(self, name: str) -> State:
        return {k: v.clone() for k, v in self.optimizer.state[self.w[name]].items() if v is not None}

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
