"""Optimisers and schedules of the settings' names."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from kd_hpo.config import trial as settings
from kd_hpo.core.updates import OPTIMIZERS
from kd_hpo.trial.optimizers import build_optimizer, build_schedule

DECAY = "weight_decay"


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    ("config", "kind", "given"),
    [
        (
            settings.Sgd(lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.01),
            SGD,
            ("lr", "momentum", "nesterov", "weight_decay"),
        ),
        (settings.Adam(lr=0.3, weight_decay=0.01), Adam, ("lr", DECAY)),
        (settings.AdamW(lr=0.3, weight_decay=0.01), AdamW, ("lr", DECAY)),
    ],
)
def test_every_setting_reaches_the_optimiser(
    config: settings.Sgd | settings.Adam | settings.AdamW, kind: type, given: tuple[str, ...]
) -> None:
    optimizer = build_optimizer(config, [parameter()])
    assert type(optimizer) is kind and kind in OPTIMIZERS  # which lambda's learning can go back through
    (group,) = optimizer.param_groups
    assert {name: group[name] for name in given} == {name: getattr(config, name) for name in given}


def rates(name: str, steps: int) -> list[float]:
    optimizer = SGD([parameter()], lr=0.4)
    schedule, found = build_schedule(name, optimizer, steps), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(found) < steps else None
    return found


def test_schedules_end_where_they_should() -> None:
    assert rates("constant", 5) == [0.4] * 5
    cosine = rates("cosine", 8)
    # Half a cosine of 8 steps: 0.4 (1 + cos(pi k / 8)) / 2, so the half of it at step 4.
    assert cosine[0] == 0.4 and cosine[4] == pytest.approx(0.2) and cosine == sorted(cosine, reverse=True)
    cycle = rates("one_cycle", 40)
    assert max(cycle) == pytest.approx(0.4, rel=0.01) and cycle[0] == pytest.approx(0.4 / 25) and cycle[-1] < 1e-4
    assert cycle.index(max(cycle)) in range(10, 14)  # 0.3 of the way


def test_one_cycle_leaves_the_momentum_alone() -> None:
    optimizer = SGD([parameter()], lr=0.4, momentum=0.7)
    schedule = build_schedule("one_cycle", optimizer, 10)
    for _ in range(9):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["momentum"] == 0.7
