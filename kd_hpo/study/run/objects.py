"""A study of modules and data sets that are given as Python objects: kept in its runs folder, where its processes find them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.wording import cut, one_line
from kd_hpo.errors import ConfigError
from kd_hpo.files import write_atomically
from kd_hpo.trial.given import Data, with_objects


def study_with_objects(
    study: StudyConfig,
    *,
    teacher: nn.Module | None,
    student: nn.Module | None,
    data: Data | None,
    overrides: Mapping[str, Any] | None,
) -> StudyConfig:
    """The study with objects in the place of what it names, kept by their content in its runs folder; then with overrides.

    Raises ConfigError for objects that cannot be kept, or a cluster, whose nodes do not have the code of what is kept.
    """
    if teacher is None and student is None and data is None and not overrides:
        return study
    runs = Path((overrides or {}).get("runs", study.runs)).expanduser().absolute()

    def keep(digest: str, given: object) -> Path:
        if study.resources.address != "local":
            raise ConfigError(
                f"a {type(given).__name__} is given as a Python object, and resources.address is {study.resources.address}: "
                "nodes of a cluster have not got its code; name it, package.module:callable, and its module is sent along"
            )
        content = pickled(given)
        path = runs / "given" / f"{digest[:16]}-{hashlib.sha256(content).hexdigest()[:16]}.pkl"
        known = sorted(path.parent.glob(f"{digest[:16]}-*.pkl"))  # the same object may be pickled to other bytes
        if not known:
            write_atomically(path, content)
        return known[0] if known else path

    return with_objects(study, teacher=teacher, student=student, data=data, overrides=overrides, keep=keep)


def pickled(given: object) -> bytes:
    """The object as bytes, with code of a script or notebook inside. Raises ConfigError where that is not possible."""
    import cloudpickle

    try:
        content: bytes = cloudpickle.dumps(given)
    except Exception as error:
        raise ConfigError(
            f"a {type(given).__name__} cannot be sent to the processes of a study ({cut(one_line(str(error)))}); name it, "
            "package.module:callable, or run trials one by one with kd_hpo.run_trial"
        ) from error
    return content
