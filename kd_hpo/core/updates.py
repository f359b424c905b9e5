"""A step of the optimiser, to go back through: torch's own optimisers in their differentiable form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from kd_hpo.core.params import Params

OPTIMIZERS: dict[type[Optimizer], tuple[str, ...]] = {
    SGD: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
}
"""What each keeps of a parameter from step to step, of the parameter's shape. It stands for zeros before the first step."""

State = dict[str, Params]
"""By what it is (`exp_avg`), then by the parameter's name."""


@dataclass(frozen=True)
class Update:
    """One step of an optimiser, ready to be taken: its settings of that moment, and its state before it."""

    kind: type[Optimizer]
    groups: Mapping[str, Mapping[str, Any]]
    """By the parameter's name: lr, weight decay and the like."""
    state: State
    counts: Mapping[str, float]
    """Steps taken before, by the parameter's name: one without a gradient at a step has not taken it."""


@dataclass(frozen=True)
class Cotangents:
    """How a loss follows small pushes of a step's inputs, or of its outputs: elementwise derivatives."""

    w: Params
    state: State


def next_update(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> Update:
    """Copies the step that the optimiser takes next. Raises TypeError for an optimiser that is not known here."""
    kind = type(optimizer)
    if kind not in OPTIMIZERS:
        raise TypeError(f"no way back through the step of {kind.__name__}; known: {[c.__name__ for c in OPTIMIZERS]}")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    of = {name: {k: v for k, v in groups[id(p)].items() if k != "params"} for name, p in parameters.items()}
    if any(group.get("dampening") for group in of.values()):
        raise TypeError("no way back through the step of SGD with dampening")
    kept = {name: optimizer.state.get(p, {}) for name, p in parameters.items()}
    state = {slot: {name: _copied(kept[name].get(slot), p) for name, p in parameters.items()} for slot in OPTIMIZERS[kind]}
    return Update(kind, of, state, {name: float(one.get("step", 0)) for name, one in kept.items()})


def pull_back(update: Update, w: Params, gradient: Params, later: Cotangents) -> tuple[Params, Cotangents]:
    """Turns derivatives by w' and the new state into those by the gradient, by w at a fixed gradient, and by the old state.

    later.state may lack a slot, which then has none.
    """
    with torch.enable_grad():
        leaves_w, leaves_g = _leaves(w), _leaves({name: gradient[name] for name in w})
        leaves_s = {slot: _leaves({name: kept[name] for name in w}) for slot, kept in update.state.items()}
        moved = {name: leaf.clone() for name, leaf in leaves_w.items()}
        settings = {"differentiable": True, "foreach": False, "fused": False}
        optimizer = update.kind(
            [{**update.groups[name], **settings, "params": [p]} for name, p in moved.items()],
            differentiable=True,  # type: ignore[call-arg]
        )
        for name, p in moved.items():
            optimizer.state[p] = {slot: _without_zeros(slot, kept[name]) for slot, kept in leaves_s.items()}
            optimizer.state[p]["step"] = torch.tensor(update.counts[name], dtype=torch.float64)
            p.grad = leaves_g[name]
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
    return value + torch.finfo(value.dtype).tiny if slot == "exp_avg_sq" else value.clone()
