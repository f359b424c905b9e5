"""Tags of a trial's run in MLflow, by which people and the dashboard find and read it."""

from collections.abc import Mapping

from kd_hpo.config.arms import ARM
from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Classification, Goal
from kd_hpo.study.store.folder import TrialSpec

_METRIC, _MODE = "kd.metric", "kd.mode"
"""Of a trial's run: what its task is measured by, and which way of it is better."""


def trial_tags(study: StudyConfig, spec: TrialSpec) -> dict[str, str]:
    tags = {"kd.study": study.name, "kd.kind": spec.kind, "kd.method": spec.method, "kd.state": "running"}
    tags |= {_METRIC: study.task.goal.metric, _MODE: study.task.goal.mode}
    return tags | ({"kd.arm": spec.settings[ARM]} if ARM in spec.settings else {})


def goal_of(tags: Mapping[str, str]) -> Goal:
    """The metric of a trial's task by the tags of its run; one that has none is of a study when all were of classification."""
    if not tags.get(_METRIC):
        return Classification.goal
    return Goal(tags[_METRIC], "min" if tags.get(_MODE) == "min" else "max")
