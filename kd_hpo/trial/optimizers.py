"""Optimisers and learning-rate schedules from their settings."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn, optim
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, OneCycleLR, SequentialLR

from kd_hpo.config import training as settings
from kd_hpo.config.training import NO_OPTIMIZERS, NO_SCHEDULES, Training
from kd_hpo.config.wording import cut, not_one_of, one_line
from kd_hpo.errors import ConfigError
from kd_hpo.nets.libraries import timm_is_installed


class RateSchedule(Protocol):
    """What moves an optimiser's learning rate after each step."""

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class EachEpoch:
    """A schedule that moves after every so many steps."""

    def __init__(self, schedule: LRScheduler, steps: int) -> None:
        self._schedule, self._steps, self._taken = schedule, steps, 0

    def step(self) -> None:
        self._taken += 1
        if self._taken % self._steps == 0:
            self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self._taken, "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._taken = state["taken"]
        self._schedule.load_state_dict(state["schedule"])


# ---- optimisers


def build_optimizer(training: Training, network: nn.Module) -> Optimizer:
    """The optimiser of all parameters of a network.

    Raises ConfigError for one that no library here has, for arguments that it does not take, and for parameters that it cannot
    train.
    """
    config, groups = training.optimizer, parameter_groups(training, network)
    match config:
        case settings.Sgd(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay):
            return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        case settings.Adam(lr=lr, weight_decay=decay):
            return Adam(groups, lr=lr, weight_decay=decay)
        case settings.AdamW(lr=lr, weight_decay=decay):
            return AdamW(groups, lr=lr, weight_decay=decay)
    given = {"lr": config.lr, **({"weight_decay": config.weight_decay} if config.weight_decay else {}), **config.arguments}
    make = of_torch(config.name) if isinstance(config, settings.TorchOptimizer) else of_timm(config.name)
    made: Optimizer = _made(partial(make, groups), given, f"the optimizer {config.kind}/{config.name}")
    return made


def parameter_groups(training: Training, network: nn.Module) -> list[dict[str, Any]]:
    """One group of all parameters; where weight decay acts on `matrices` alone, those and the others, which have none."""
    named = dict(network.named_parameters())
    if training.decayed is None:
        return [{"params": list(named.values())}]
    free = undecayed(network)
    decayed, others = ([p for name, p in named.items() if (name in free) == is_free] for is_free in (False, True))
    return [{"params": params, **more} for params, more in ((decayed, {}), (others, {"weight_decay": 0.0})) if params]


def undecayed(network: nn.Module) -> set[str]:
    """The names of the parameters that recipes leave without decay: biases, those of norms, and what the network says itself."""
    free = {name for name, p in network.named_parameters() if p.dim() <= 1}
    for path, module in network.named_modules():
        says = getattr(module, "no_weight_decay", None)
        if callable(says):
            free |= {f"{path}.{name}" if path else str(name) for name in says()}
    return free


def of_torch(name: str) -> Any:
    """The optimiser of torch.optim of that name. Raises ConfigError where there is none."""
    return _of(name, _classes(vars(optim), Optimizer), "optimizer of kind torch")


def of_timm(name: str) -> Any:
    """The optimiser of timm of that name, with its own defaults. Raises ConfigError where there is none, or no timm."""
    if not timm_is_installed():
        raise ConfigError(f"the optimizer timm/{name} needs timm, which is not installed: pip install 'kd_hpo[timm]'")
    from timm.optim import get_optimizer_class, list_optimizers

    _of(name, dict.fromkeys(list_optimizers(), name), "optimizer of kind timm")
    return get_optimizer_class(name, bind_defaults=True)


def clip_gradients(training: Training, network: nn.Module) -> None:
    """Shortens the gradient of all parameters together to `clip_norm`, where that is given and the gradient is longer."""
    if training.clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)


# ---- the learning rate


def build_schedule(training: Training, optimizer: Optimizer, steps: int) -> RateSchedule:
    """The whole schedule over so many steps, which are those of all the epochs, or of a stage that stands for them.

    Raises ConfigError for a schedule that torch does not have, or that does not go with its arguments.
    """
    lr, schedule = optimizer.param_groups[0]["lr"], training.lr_schedule
    match schedule:
        case "one_cycle":
            return OneCycleLR(optimizer, max_lr=lr, total_steps=steps, cycle_momentum=False)
        case "cosine":
            return CosineAnnealingLR(optimizer, T_max=steps)
        case "constant":
            return ConstantLR(optimizer, factor=1.0)
        case settings.OneCycle(rise=rise, start=start, end=end):
            return OneCycleLR(optimizer, lr, steps, pct_start=rise, cycle_momentum=False, div_factor=start, final_div_factor=end)
        case settings.TorchSchedule():
            return _by_name(schedule, training, optimizer, steps)
    warmup = round(steps * training.share(schedule.warmup))
    rising = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup) if warmup else None
    after: LRScheduler
    match schedule:
        case settings.MultiStep(milestones=milestones, gamma=gamma):
            at = [max(round(steps * training.share(milestone)) - warmup, 1) for milestone in milestones]
            after = MultiStepLR(optimizer, milestones=at, gamma=gamma)
        case settings.Cosine(floor=floor):
            after = CosineAnnealingLR(optimizer, T_max=max(steps - warmup, 1), eta_min=floor)
        case settings.ConstantRate():
            after = ConstantLR(optimizer, factor=1.0)
    return SequentialLR(optimizer, [rising, after], milestones=[warmup]) if rising else after


def require_rates(training: Training, steps: int) -> None:
    """Goes through a schedule by torch's name once, without a network, so that what is wrong with it shows at once.

    Raises ConfigError where it ends before the training does, or gives a rate that is none.
    """
    if not isinstance(training.lr_schedule, settings.TorchSchedule):
        return
    weight = nn.Module()
    weight.register_parameter("weight", nn.Parameter(torch.zeros(2, 2)))
    optimizer = build_optimizer(training, weight)
    schedule, what = build_schedule(training, optimizer, steps), f"the lr_schedule torch/{training.lr_schedule.name}"
    optimizer.step()
    for step in range(steps):
        rates = [group["lr"] for group in optimizer.param_groups]
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            raise ConfigError(f"{what} gives a rate of {min(rates):g} at step {step} of {steps}; give it other arguments")
        _made(schedule.step, {}, f"{what}, at step {step + 1} of {steps},")


def _by_name(schedule: settings.TorchSchedule, training: Training, optimizer: Optimizer, steps: int) -> RateSchedule:
    make = _of(schedule.name, _classes(vars(lr_scheduler), LRScheduler), "lr_schedule of kind torch")
    made = _made(partial(make, optimizer), schedule.arguments, f"the lr_schedule torch/{schedule.name}")
    return made if schedule.each == "step" else EachEpoch(made, max(round(steps / training.epochs), 1))


# ---- by name


def _classes(module: Mapping[str, Any], base: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in module.items()
        if isinstance(value, type) and issubclass(value, base) and value is not base and not name.startswith("_")
    }


def _of(name: str, known: Mapping[str, Any], what: str) -> Any:
    if name in known:
        return known[name]
    raise ConfigError(
        f"the name of an {what} {not_one_of(name, sorted(known.keys() - NO_OPTIMIZERS.keys() - NO_SCHEDULES.keys()))}"
    )


def _made(make: Any, arguments: Mapping[str, Any], what: str) -> Any:
    """Raises ConfigError with whatever the library says of the arguments."""
    try:
        return make(**arguments)
    except Exception as error:
        said = cut(one_line(f"{type(error).__name__}: {error}"))
        given = f" cannot be made with {dict(arguments)}" if arguments else " cannot go on"
        raise ConfigError(f"{what}{given}: {said}") from error
