"""What a distiller has to be given, by its settings."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from kd_hpo.config.pairs import GradientBalanced
from kd_hpo.core.updates import OPTIMIZERS
from kd_hpo.distiller.settings import Distilling
from kd_hpo.errors import ConfigError

_THROUGH_THE_UPDATE = frozenset({"one_step", "unrolled", "drmad", "hyperdistill"})
"""Directions that go back through the step of the student's optimiser."""
_BY_FRESH_BATCHES = frozenset({"neumann", "conjugate_gradient"})


def require_what_is_needed(
    settings: Distilling,
    *,
    task: object | None,
    optimizer: Any,
    steps: int | None,
    fresh: Callable[..., object] | None,
) -> Optimizer | None:
    """Checks that what the settings need is given; gives the optimiser out of what libraries wrap it in.

    Raises ConfigError that names what is missing, and what would do without it.
    """
    while optimizer is not None and not _is_plain(optimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer  # Lightning's and accelerate's
    learning = settings.weighting.learning
    balanced = settings.weighting.paired and isinstance(settings.pairs.balance, GradientBalanced)
    missing = [name for name, value in {"task": task, "optimizer": optimizer, "steps": steps}.items() if value is None]
    if missing and (learning or balanced):
        why = "lambda is learned" if learning else "the pairs' gradients are balanced"
        without = "weighting={'kind': 'uniform'} and " if learning else ""
        raise ConfigError(
            f"{why}, which needs {', '.join(missing)}: task is your loss (output, labels) -> (), optimizer the student's, steps "
            f"those of the whole training. Give them, or do without by {without}pairs={{'balance': {{'kind': 'none'}}}}"
        )
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is {steps}; it is the number of steps of the whole training, 1 at least")
    kind = learning.direction.kind if learning else ""
    if kind in _THROUGH_THE_UPDATE and type(optimizer) not in OPTIMIZERS:
        known = ", ".join(each.__name__ for each in OPTIMIZERS)
        raise ConfigError(
            f"weighting.direction is {kind}, which goes back through the step of the optimiser, and {type(optimizer).__name__} "
            f"is none of {known}; use one of these, or the direction gradient_flow"
        )
    if kind in _BY_FRESH_BATCHES and fresh is None:
        raise ConfigError(
            f"weighting.direction is {kind}, whose Hessian products are on fresh training batches: give fresh, a function of "
            "step and number that returns (inputs, labels), or the direction gradient_flow"
        )
    return optimizer  # type: ignore[no-any-return]


def _is_plain(optimizer: object) -> bool:
    return type(optimizer) in OPTIMIZERS
