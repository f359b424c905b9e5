"""The one place that opens the test split."""

from pathlib import Path

from kd_hpo.config.trial import TrialConfig
from kd_hpo.nets.weights import load_weights
from kd_hpo.trial.evaluate import score
from kd_hpo.trial.parts import Prepared, build


def accuracy_on_test(config: TrialConfig, weights: Path, prepared: Prepared) -> float:
    """Of the trial's student with the weights of a file. Raises ConfigError where they do not fit."""
    network = build(config.student.network, prepared.batches, prepared.task, seed=config.seed)
    load_weights(network, weights)
    return score(network, prepared.task, prepared.batches, prepared.splits.test).value
