"""Networks and data sets that are given as Python objects: settings name them by a digest, and find them again by it."""

import copy
import hashlib
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from kd_hpo.config.read import replace_paths
from kd_hpo.config.settings import Settings
from kd_hpo.data.items import DataSet, Items, class_names
from kd_hpo.errors import ConfigError
from kd_hpo.nets.identity import network_digest

C = TypeVar("C", bound=Settings)
Data = DataSet | tuple[DataSet, DataSet]
"""A data set of (image, label), or two: train and test."""
Keep = Callable[[str, object], Path]
"""Keeps an object, for other processes, in a file that its digest names."""

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
    keep: Keep | None = None,
) -> C:
    """The settings of a trial or a study with objects in the place of what they name, then with overrides, by dotted paths.

    A teacher is taken with the weights that it has, unless overrides say how it is trained; a student starts from its own.
    keep  where other processes are to find the objects
    Raises ConfigError, for objects that cannot be kept too, and DataError for a data set that has no items.
    """
    changes = dict[str, Any]()
    if teacher is not None:
        changes["teacher.network"] = _named(NETWORK, teacher, network_digest(teacher), keep)
        changes |= {f"teacher.{name}": None for name in ("training", "weights", "weights_key")}
    if student is not None:
        changes["student.network"] = _named(NETWORK, student, network_digest(student), keep)
        changes |= {"student.weights": None, "student.weights_key": None}
    if data is not None:
        halves = data if isinstance(data, tuple) else (data,)
        what = "the given data set"
        digest = Items(what, halves, class_names(what, halves), None).digest()
        named = _named(DATA, data, digest, keep)
        changes["data"] = {"kind": "callable", "callable": named["name"], "arguments": named["arguments"]}
    return replace_paths(config, changes | dict(overrides or {}))


def network(digest: str, kept: str | None = None) -> nn.Module:
    """Gives a copy of a network that was given. Raises ConfigError where it is not to be had."""
    found: nn.Module = copy.deepcopy(_find(digest, kept, "network"))
    return found


def data_set(digest: str, kept: str | None = None) -> Data:
    """Gives a data set that was given. Raises ConfigError where it is not to be had."""
    found: Data = _find(digest, kept, "data set")
    return found


def _named(reference: str, given: object, digest: str, keep: Keep | None) -> dict[str, Any]:
    digest = digest[:40]
    _here[digest] = given
    kept = {"kept": str(keep(digest, given))} if keep else {}
    return {"name": reference, "arguments": {"digest": digest, **kept}}


def _find(digest: str, kept: str | None, what: str) -> Any:
    if digest in _here:
        return _here[digest]
    if kept is None:
        raise ConfigError(f"a {what} that was given as a Python object is not known in this process; give it again")
    content = Path(kept).read_bytes()
    if hashlib.sha256(content).hexdigest()[:16] != Path(kept).stem.rpartition("-")[2]:
        raise ConfigError(f"{kept} is not what was kept there; start the study again with its objects")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, as for code that a study names
    _here[digest] = given = pickle.loads(content)
    return given
