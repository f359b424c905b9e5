"""A step of the optimiser, to go back through: torch's own optimisers in their differentiable form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from kd_hpo.core.params import Params
from kd_hpo.errors import ConfigError

OPTIMIZERS: dict[type[Optimizer], tuple[str, ...]] = {
    SGD: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
    NAdam: ("exp_avg", "exp_avg_sq"),
    RAdam: ("exp_avg", "exp_avg_sq"),
    Adamax: ("exp_avg", "exp_inf"),
    Adagrad: ("sum",),
    RMSprop: ("square_avg",),
}
"""What each keeps of a parameter from step to step, of the parameter's shape. It stands for zeros before the first step."""
MORE: dict[type[Optimizer], dict[str, str]] = {
    Adam: {"amsgrad": "max_exp_avg_sq"},
    AdamW: {"amsgrad": "max_exp_avg_sq"},
    RMSprop: {"momentum": "momentum_buffer", "centered": "grad_avg"},
}
"""What some keep besides, where the setting of that name is on."""
_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""What a root is taken of."""
_NUMBERS = ("step", "mu_product")
"""What is kept beside, the same whatever the gradients were."""

State = dict[str, Params]
"""By what it is (`exp_avg`), then by the parameter's name."""


@dataclass(frozen=True)
class Update:
    """One step of an optimiser, ready to be taken: its settings of that moment, and its state before it."""

    kind: type[Optimizer]
    groups: Mapping[str, Mapping[str, Any]]
    """By the parameter's name: lr, weight decay and the like."""
    state: State
    counts: Mapping[str, Mapping[str, float]]
    """What counts the steps taken before, by the parameter's name: one without a gradient at a step has not taken it."""
    clip_norm: float | None = None
    """What the length of the whole gradient is cut to before the step."""
    refused: str = ""
    """Why there is no way back through it, where there is none."""


@dataclass(frozen=True)
class Cotangents:
    """How a loss follows small pushes of a step's inputs, or of its outputs: elementwise derivatives."""

    w: Params
    state: State


def no_way_back(optimizer: Optimizer) -> str:
    """Tells why one cannot go back through the steps of an optimiser; empty where one can."""
    kind = type(optimizer)
    if kind not in OPTIMIZERS:
        return f"the steps of {kind.__name__} are not among those that it can go back through, those of {_KNOWN}"
    for group in optimizer.param_groups:
        wrong = [name for name in ("dampening", "maximize") if group.get(name)]
        if wrong:
            return f"it cannot go back through the steps of {kind.__name__} with {wrong[0]}"
    return ""


_KNOWN = ", ".join(kind.__name__ for kind in OPTIMIZERS)


def next_update(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], clip_norm: float | None = None) -> Update:
    """Copies the step that the optimiser takes next, on a gradient whose length is cut to `clip_norm` first.

    Of one that nobody can go back through, no state; `pull_back` then raises.
    """
    refused = no_way_back(optimizer)
    if refused:
        return Update(type(optimizer), {}, {}, {}, clip_norm, refused)
    kind = type(optimizer)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    of = {name: {k: v for k, v in groups[id(p)].items() if k != "params"} for name, p in parameters.items()}
    kept = {name: optimizer.state.get(p, {}) for name, p in parameters.items()}
    more = MORE.get(kind, {})
    also = (slot for setting, slot in more.items() if any(group[setting] for group in of.values()))
    slots = [*OPTIMIZERS[kind], *also]
    state = {slot: {name: _copied(kept[name].get(slot), p) for name, p in parameters.items()} for slot in slots}
    counts = {name: {count: float(one[count]) for count in _NUMBERS if count in one} for name, one in kept.items()}
    return Update(kind, of, state, counts, clip_norm)


def pull_back(update: Update, w: Params, gradient: Params, later: Cotangents) -> tuple[Params, Cotangents]:
    """Turns derivatives by w' and the new state into those by the gradient, by w at a fixed gradient, and by the old state.

    later.state may lack a slot, which then has none. Raises ConfigError where there is no way back.
    """
    if update.refused:
        raise ConfigError(
            f"weighting.direction goes back through the steps of the training, and {update.refused}; take another optimizer, or "
            "a direction that looks at the losses alone: gradient_flow, neumann, conjugate_gradient or diagonal_fisher"
        )
    with torch.enable_grad():
        leaves_w, leaves_g = _leaves(w), _leaves({name: gradient[name] for name in w})
        leaves_s = {slot: _leaves({name: kept[name] for name in w}) for slot, kept in update.state.items()}
        clipped = _clipped({**gradient, **leaves_g}, update.clip_norm)
        moved = {name: leaf.clone() for name, leaf in leaves_w.items()}
        settings = {"differentiable": True, "foreach": False, "fused": False}
        optimizer = update.kind(
            [{**update.groups[name], **settings, "params": [p]} for name, p in moved.items()],
            differentiable=True,  # type: ignore[call-arg]
        )
        for name, p in moved.items():
            optimizer.state[p] = {slot: _without_zeros(slot, kept[name]) for slot, kept in leaves_s.items()}
            for count, first in (("step", 0.0), ("mu_product", 1.0)):
                optimizer.state[p][count] = torch.tensor(update.counts[name].get(count, first), dtype=torch.float64)
            p.grad = clipped[name]
        optimizer.step()
        outputs = [(moved[name], later.w[name]) for name in w]
        outputs += [(optimizer.state[moved[name]][slot], by) for slot, of in later.state.items() for name, by in of.items()]
        inputs = [*leaves_g.values(), *leaves_w.values(), *(leaf for kept in leaves_s.values() for leaf in kept.values())]
        values, cotangents = zip(*outputs, strict=True)
        found = iter(torch.autograd.grad(values, inputs, cotangents, allow_unused=True, materialize_grads=True))
    by_gradient, by_w = ({name: next(found) for name in w} for _ in range(2))
    return by_gradient, Cotangents(by_w, {slot: {name: next(found) for name in w} for slot in leaves_s})


def _leaves(values: Params) -> Params:
    return {name: value.detach().clone().requires_grad_() for name, value in values.items()}


def _copied(value: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like, requires_grad=False) if value is None else value.detach().clone()


def _without_zeros(slot: str, value: Tensor) -> Tensor:
    """sqrt has no slope at 0, where Adam's mean square of a gradient that was always 0 stands; its limit in the step has."""
    return value + torch.finfo(value.dtype).tiny if slot in _SQUARES else value.clone()


def _clipped(gradient: Params, to: float | None) -> Params:
    """As torch's clip_grad_norm_ does it."""
    if to is None:
        return gradient
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradient.values()]))
    factor = (to / (length + 1e-6)).clamp(max=1.0)
    return {name: g * factor for name, g in gradient.items()}
