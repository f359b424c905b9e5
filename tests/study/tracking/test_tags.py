"""Tags of a trial's run in MLflow."""

from pathlib import Path

from kd_hpo.config.arms import ARM
from kd_hpo.config.task import Classification
from kd_hpo.study.store.folder import TrialSpec
from kd_hpo.study.tracking.tags import goal_of, trial_tags
from tests.conftest import digits_study


def test_a_run_tells_method_arm_and_goal(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    spec = TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=0, settings={ARM: "diagonal"})
    tags = trial_tags(study, spec)
    assert (tags["kd.study"], tags["kd.kind"], tags["kd.method"], tags["kd.arm"]) == ("small", "search", "hetero", "diagonal")
    assert goal_of(tags) == study.task.goal and goal_of({}) == Classification.goal
