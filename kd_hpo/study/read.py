"""Reads a study file: the settings, checked against the methods that there are."""

from collections.abc import Sequence
from pathlib import Path

from kd_hpo.config.load import read_study
from kd_hpo.config.study import StudyConfig
from kd_hpo.trial.methods import METHODS


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a YAML file after `a.b.c=value` overrides. Raises ConfigError, one line for each mistake."""
    return read_study(Path(path), overrides, methods=METHODS)
