"""Which settings act on what a trial comes to: trials that agree in them are the same trial."""

from typing import Any

import torch

from kd_hpo.config.pairs import SquaredLogits
from kd_hpo.config.trial import Assistant, TrialConfig
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.plan import LayerShape, pair_plan


def effect(trial: TrialConfig | Assistant) -> dict[str, Any]:
    """The settings that a trial's outcome depends on: without those of losses that are off or have nothing to train."""
    settings = trial.model_dump(mode="json")
    paired = trial.weighting.paired
    if not paired:
        del settings["pairs"]
    elif not has_regressors(trial):
        del settings["pairs"]["regressor_lr"]
    if trial.kd.weight == 0 and (not paired or trial.pairs.logits == "outside"):
        del settings["kd"]
    elif isinstance(trial.kd, SquaredLogits) and (not paired or trial.pairs.logits == "outside"):
        del settings["kd"]["temperature"]  # it has none of its own
    if isinstance(trial, TrialConfig):
        settings["assistants"] = [effect(assistant) for assistant in trial.assistants]
        for network in ("teacher", "student") if not paired else ():
            del settings[network]["layers"]
    return settings


def has_regressors(trial: TrialConfig | Assistant) -> bool:
    """Whether the pair loss has parameters; those of one pair of single numbers tell."""
    layer = LayerShape("logits", 1, 1, 1)  # which all losses serve
    loss = pair_loss(trial.pairs.loss.kind, **trial.pairs.loss.arguments())
    return any(True for _ in loss.module(pair_plan([layer], [layer]), torch.Generator()).parameters())
