"""Small networks and loops that the distiller's tests share."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_hpo.distiller.distiller import Distiller

STEPS = 12
LEARNED = {"kind": "learned", "every": 2, "warmup": 0.2, "hold": 0.2, "evidence": False, "outer_batch": 16}
SOON = {"balance": {"kind": "gradient", "measures": 1}}


class Net(nn.Module):
    """Two convolutions and a head; of a mapping it returns one, as transformers' networks do."""

    def __init__(self, width: int, seed: int, *, named: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.one, self.two = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, stride=2, padding=1)
            self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 3)
        self.named = named

    def forward(self, pixel_values: Tensor, scale: Tensor | None = None) -> Any:
        x = pixel_values if scale is None else pixel_values * scale.view(-1, 1, 1, 1)
        logits = self.head(torch.relu(self.norm(self.two(torch.relu(self.one(x))))).mean((2, 3)))
        return {"hidden": x, "logits": logits} if self.named else logits


def batch(number: int, size: int = 8) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(number)
    return torch.randn(size, 1, 8, 8, generator=chance), torch.randint(3, (size,), generator=chance)


def loop_of(student: nn.Module | None = None, **settings: Any) -> tuple[Distiller, nn.Module, torch.optim.Optimizer]:
    student = Net(3, 1).train() if student is None else student
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    given = {"task": F.cross_entropy, "optimizer": optimizer, "steps": STEPS, "weighting": LEARNED, "pairs": SOON} | settings
    return Distiller(Net(5, 0), student, batch(99)[0], **given), student, optimizer


def train(kd: Distiller, optimizer: torch.optim.Optimizer, numbers: range, inputs: Callable[[Tensor], Any] = lambda x: x) -> None:
    for number in numbers:
        x, y = batch(number)
        ox, oy = batch(1000 + number, 16)
        taught = kd(inputs(x), y, outer=lambda ox=ox, oy=oy: (inputs(ox), oy))
        optimizer.zero_grad()
        (F.cross_entropy(taught.logits, y) + taught.loss).backward()
        optimizer.step()
        kd.step()
