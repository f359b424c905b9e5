"""What the examples train on: scikit-learn's 1797 grey digits of 8 x 8 pixels, and a teacher that has learned them."""

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def digits(batch: int = 64) -> tuple[DataLoader, DataLoader, TensorDataset]:
    """Batches to train on, batches that lambda looks at, and what tells how good it is: (B, 1, 8, 8), labels (B,)."""
    read = load_digits()
    images, labels = torch.tensor(read.images, dtype=torch.float32).unsqueeze(1) / 8 - 1, torch.tensor(read.target)
    parts = slice(1000), slice(1000, 1400), slice(1400, None)
    train, outer, val = (TensorDataset(images[part], labels[part]) for part in parts)
    return DataLoader(train, batch, shuffle=True, drop_last=True), DataLoader(outer, 128, shuffle=True), val


def forever(loader: DataLoader) -> Iterator[Any]:
    return chain.from_iterable(repeat(loader))


def network(width: int) -> nn.Module:
    def block(inside: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inside, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2))

    return nn.Sequential(block(1, width), block(width, 2 * width), nn.Flatten(), nn.Linear(8 * width, 10))


def trained_teacher(train: DataLoader, epochs: int = 4) -> nn.Module:
    teacher = network(32)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
    for _ in range(epochs):
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(teacher(x), y).backward()
            optimizer.step()
    return teacher


def accuracy(student: nn.Module, val: TensorDataset) -> float:
    x, y = val.tensors
    with torch.no_grad():
        return float((logits_of(student.eval(), x).argmax(1) == y).float().mean())


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    out = network(x)
    return out if isinstance(out, Tensor) else out.logits
