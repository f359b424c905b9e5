"""A trial's checkpoint: one file, written atomically, read without running any code from it."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kd_hpo.config.trial import TrialConfig
from kd_hpo.config.wording import cut, one_line
from kd_hpo.core.updates import OPTIMIZERS
from kd_hpo.errors import CheckpointMismatch
from kd_hpo.files import Write, write_atomically

VERSION = 2
_SUM = 32
"""Bytes of the sha256 that goes before the rest: torch reads a tensor whose bytes have changed as if it were whole."""


def config_digest(config: TrialConfig) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def save_checkpoint(path: Path, config: TrialConfig, state: dict[str, Any], write: Write = write_atomically) -> None:
    buffer = io.BytesIO()
    torch.save({"version": VERSION, "config": config_digest(config), "state": state}, buffer)
    content = buffer.getvalue()
    write(path, hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path, config: TrialConfig) -> dict[str, Any] | None:
    """The state that `save_checkpoint` wrote, on the CPU, or None where there is no file.

    Raises CheckpointMismatch for a file that is truncated or changed, of another version or of another configuration.
    """
    if not path.exists():
        return None
    remedy = "Remove the file to start the trial again"
    try:
        written = memoryview(path.read_bytes())
        if hashlib.sha256(written[_SUM:]).digest() != written[:_SUM]:
            raise ValueError("its bytes are not those that were written")
        saved = torch.load(io.BytesIO(written[_SUM:]), weights_only=True, map_location="cpu")
        version, digest, state = int(saved["version"]), str(saved["config"]), dict(saved["state"])
    except Exception as error:
        said = cut(one_line(f"{type(error).__name__}: {error}"))
        raise CheckpointMismatch(f"{path} is not a whole checkpoint of kd_hpo ({said}). {remedy}") from error
    if version != VERSION or digest != config_digest(config):
        raise CheckpointMismatch(
            f"{path} was written by another configuration or version of kd_hpo. {remedy}, or write to another folder (--output)"
        )
    return state


def require_alike(state: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    """Checks that the tensors of a fresh part are there, as large and of the same type. Raises ValueError where not."""
    for name, tensor in fresh.items():
        if isinstance(tensor, Tensor) and (state[name].shape, state[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} is {tuple(state[name].shape)} of {state[name].dtype}, not {tuple(tensor.shape)}")


def require_fitting(optimizer: Optimizer) -> None:
    """Checks that what an optimiser keeps of a parameter is as large as that, which it does not see itself.

    Of one that is not known to keep only such, nothing. Raises ValueError where it is not.
    """
    if not isinstance(optimizer, tuple(OPTIMIZERS)):
        return
    for parameter, kept in optimizer.state.items():
        wrong = [name for name, value in kept.items() if isinstance(value, Tensor) and value.shape not in ((), parameter.shape)]
        if wrong:
            raise ValueError(f"{wrong[0]} of the optimiser is {tuple(kept[wrong[0]].shape)}, not {tuple(parameter.shape)}")
