"""A study of modules and data sets that are given as Python objects, which its processes are sent."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.wording import cut, one_line
from kd_hpo.errors import ConfigError

GIVEN = "kd_hpo.trial.given:"
"""What the names of given objects begin with."""

if TYPE_CHECKING:
    from torch import nn

    from kd_hpo.trial.given import Data


def study_with_objects(
    study: StudyConfig,
    *,
    teacher: "nn.Module | None",
    student: "nn.Module | None",
    data: "Data | None",
    overrides: Mapping[str, Any] | None,
) -> StudyConfig:
    """The study with objects in the place of what it names; then with overrides.

    Nothing of them is kept in a file, from which code would run: a study that goes on in another process is given them again.
    Raises ConfigError for objects that cannot be sent, or a cluster, whose nodes do not have their code.
    """
    objects = [each for each in (teacher, student, data) if each is not None]
    if not objects and not overrides:
        return study
    from kd_hpo.trial.given import with_objects  # it reads networks and data, with torch

    study = with_objects(study, teacher=teacher, student=student, data=data, overrides=overrides)
    for given in objects:
        if study.resources.address != "local":
            raise ConfigError(
                f"a {type(given).__name__} is given as a Python object, and resources.address is {study.resources.address}: "
                "nodes of a cluster have not got its code; name it, package.module:callable, and its module is sent along"
            )
        require_sendable(given)
    return study


def objects_of_trials(study: StudyConfig) -> dict[str, object]:
    """The objects of this process that the study's trials name. Raises ConfigError where one is not to be had."""
    places = (study.teacher.network.name, study.student.network.name, getattr(study.data, "callable", ""))
    if not any(place.startswith(GIVEN) for place in places):
        return {}
    from kd_hpo.trial.given import objects_of

    return objects_of(study.trial())


def require_sendable(given: object) -> None:
    """Checks that Ray can send the object to a process. Raises ConfigError where it cannot."""
    import cloudpickle

    try:
        cloudpickle.dumps(given)
    except Exception as error:
        raise ConfigError(
            f"a {type(given).__name__} cannot be sent to the processes of a study ({cut(one_line(str(error)))}); name it, "
            "package.module:callable, or run trials one by one with kd_hpo.run_trial"
        ) from error
