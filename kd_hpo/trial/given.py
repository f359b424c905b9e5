"""Networks and data sets that are given as Python objects: settings name them by a digest, and find them again by it."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from kd_hpo.config.data import CallableData
from kd_hpo.config.read import replace_paths
from kd_hpo.config.settings import Settings
from kd_hpo.config.trial import TrialConfig
from kd_hpo.data.items import DataSet, Items, class_names
from kd_hpo.errors import ConfigError
from kd_hpo.nets.identity import network_digest

C = TypeVar("C", bound=Settings)
Data = DataSet | tuple[DataSet, DataSet]
"""A data set of (image, label), or two: train and test."""

NETWORK, DATA = f"{__name__}:network", f"{__name__}:data_set"
_here = dict[str, Any]()
"""What was given in this process, by its digest."""


def with_objects(
    config: C,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    data: Data | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> C:
    """The settings of a trial or a study with objects in the place of what they name, then with overrides, by dotted paths.

    A teacher is taken with the weights that it has, unless overrides say how it is trained; a student starts from its own.
    Raises ConfigError, and DataError for a data set that has no items.
    """
    changes = dict[str, Any]()
    if teacher is not None:
        changes["teacher.network"] = _named(NETWORK, teacher, network_digest(teacher))
        changes |= {f"teacher.{name}": None for name in ("training", "weights", "weights_key")}
    if student is not None:
        changes["student.network"] = _named(NETWORK, student, network_digest(student))
        changes |= {"student.weights": None, "student.weights_key": None}
    if data is not None:
        halves = data if isinstance(data, tuple) else (data,)
        what = "the given data set"
        digest = Items(what, halves, class_names(what, halves), None).digest()
        named = _named(DATA, data, digest)
        changes["data"] = {"kind": "callable", "callable": named["name"], "arguments": named["arguments"]}
    return replace_paths(config, changes | dict(overrides or {}))


def network(digest: str) -> nn.Module:
    """Gives a copy of a network that was given. Raises ConfigError where it is not to be had."""
    found: nn.Module = copy.deepcopy(_find(digest, "network"))
    return found


def data_set(digest: str) -> Data:
    """Gives a data set that was given. Raises ConfigError where it is not to be had."""
    found: Data = _find(digest, "data set")
    return found


def objects_of(config: TrialConfig) -> dict[str, object]:
    """The objects of this process that the settings name, by their digests: for another process to `remember`."""
    named = [(each.network.name, each.network.arguments) for each in (config.teacher, config.student)]
    if isinstance(config.data, CallableData):
        named.append((config.data.callable, config.data.arguments))
    digests = [str(arguments["digest"]) for name, arguments in named if name in (NETWORK, DATA)]
    return {digest: _find(digest, "object") for digest in digests}


def remember(objects: Mapping[str, object]) -> None:
    """Lets settings of this process find objects of another one."""
    _here.update(objects)


def _named(reference: str, given: object, digest: str) -> dict[str, Any]:
    digest = digest[:40]
    _here[digest] = given
    return {"name": reference, "arguments": {"digest": digest}}


def _find(digest: str, what: str) -> Any:
    if digest not in _here:
        raise ConfigError(f"a {what} that was given as a Python object is not known in this process; give it again")
    return _here[digest]
