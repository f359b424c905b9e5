"""The student's forward passes: as it trains, and along a tangent."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from kd_hpo.config.wording import cut, one_line
from kd_hpo.core.params import Params
from kd_hpo.errors import ConfigError
from kd_hpo.nets.forward_mode import ShortTangents, plain_attention
from kd_hpo.trial.randomness import random_state, set_random_state
from kd_hpo.trial.state import Trial


@dataclass(frozen=True)
class Moment:
    """The student just before a step, for the Jacobian of that step: parameters, buffers, random state."""

    parameters: Params
    buffers: Params
    random: dict[str, Tensor]


def remember(trial: Trial) -> Moment:
    return Moment({n: p.detach().clone() for n, p in trial.parameters.items()}, trial.buffers(), random_state())


def run_student(trial: Trial, x: Tensor, state: Params) -> tuple[Tensor, list[Tensor]]:
    """The student's logits, in the precision of losses, and its features as they are; `state` stands in for its tensors."""
    learning = trial.schedule.learning is not None  # its step and the Jacobian of the step run alike
    with trial.prepared.batches.autocast(), plain_attention() if learning else nullcontext():
        logits, features = functional_call(trial.student, state, (x,)) if state else plain_pass(trial, x)
    return logits.to(trial.prepared.batches.dtype), features


def plain_pass(trial: Trial, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Compiled where the trial asks for it. Raises ConfigError where torch.compile cannot do that here."""
    if not trial.config.compile:
        return trial.student(x)  # type: ignore[no-any-return]
    from torch._dynamo.exc import TorchDynamoException  # seconds, which a trial that is not compiled does without
    from torch._inductor.exc import InductorError

    try:
        return trial.compiled(x)  # type: ignore[no-any-return]
    except (TorchDynamoException, InductorError) as error:
        said = one_line(str(error).strip().splitlines()[0])
        raise ConfigError(f"compile is true, and torch.compile cannot do it here ({cut(said)}); set compile: false") from error


def as_targets(features: list[Tensor]) -> list[Tensor]:
    """Features in the precision of losses: what autocast left in bfloat16 becomes float32."""
    return [f.float() if f.dtype == torch.bfloat16 else f for f in features]


def forward_mode_student(trial: Trial, x: Tensor, w: Params, before: Moment) -> tuple[Tensor, list[Tensor]]:
    """Logits and features of parameters w that carry a tangent, with buffers and random state as just before the step."""
    set_random_state(before.random)  # the same dropout as in the step
    buffers = {name: buffer.clone() for name, buffer in before.buffers.items()}
    with plain_attention(), ShortTangents():  # and in float32: autocast has no forward mode
        logits, features = functional_call(trial.student, {**w, **buffers}, (x,))
    return logits, features
