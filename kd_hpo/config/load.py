"""A study file with all that can be known to be wrong in it found before anything runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_hpo.config.read import read_settings, replace_path
from kd_hpo.config.study import Choice, IntRange, LogUniformRange, Method, StudyConfig, UniformRange
from kd_hpo.config.trial import ImageFolder, TorchvisionData, TrialConfig
from kd_hpo.errors import ConfigError


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Reads a study file; its paths become absolute, from the current folder, since trials run elsewhere.

    Raises ConfigError for unknown keys, wrong values, and ranges of settings that do not exist or do not accept them.
    """
    study = with_absolute_paths(read_settings(StudyConfig, path, overrides))
    trial = study.trial()
    for dotted, chosen in study.search.space.items():
        for value in range_ends(chosen):
            try:
                replace_path(trial, dotted, value)
            except ConfigError as error:
                raise ConfigError(f"{path}: search.space: {dotted}: {value!r} cannot be chosen: {error}") from error
    return study


def range_ends(chosen: UniformRange | LogUniformRange | IntRange | Choice) -> tuple[Any, ...]:
    return chosen.values if isinstance(chosen, Choice) else (chosen.low, chosen.high)


def with_settings(trial: TrialConfig, changes: dict[str, Any]) -> TrialConfig:
    """The trial with dotted paths replaced, one after the other."""
    for dotted, value in changes.items():
        trial = replace_path(trial, dotted, value)
    return trial


def with_absolute_paths(study: StudyConfig) -> StudyConfig:
    changes: dict[str, Any] = {"runs": study.runs.expanduser().absolute()}
    if isinstance(study.data, ImageFolder):
        changes["data"] = study.data.replace(path=study.data.path.expanduser().absolute()).model_dump()
    if isinstance(study.data, TorchvisionData):
        changes["data"] = study.data.replace(root=study.data.root.expanduser().absolute()).model_dump()
    if study.teacher.weights is not None:
        changes["teacher"] = study.teacher.replace(weights=study.teacher.weights.expanduser().absolute()).model_dump()
    return study.replace(**changes)


def method_names(study: StudyConfig) -> tuple[str, ...]:
    return tuple(m.name if isinstance(m, Method) else m for m in study.compare.methods)
