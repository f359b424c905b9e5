"""Optimisers and learning-rate schedules from their settings."""

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from kd_hpo.config import trial as settings


def build_optimizer(config: settings.Sgd | settings.Adam | settings.AdamW, parameters: Iterable[nn.Parameter]) -> Optimizer:
    match config:
        case settings.Sgd(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay):
            return SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        case settings.Adam(lr=lr, weight_decay=decay):
            return Adam(parameters, lr=lr, weight_decay=decay)
        case settings.AdamW(lr=lr, weight_decay=decay):
            return AdamW(parameters, lr=lr, weight_decay=decay)


def build_schedule(name: str, optimizer: Optimizer, steps: int) -> LRScheduler:
    lr = optimizer.param_groups[0]["lr"]
    match name:
        case "one_cycle":
            return OneCycleLR(optimizer, max_lr=lr, total_steps=steps, cycle_momentum=False)
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
        case _:
            return ConstantLR(optimizer, factor=1.0)
