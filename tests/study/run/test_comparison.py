"""At which settings methods are compared, and which trials of the comparison are left."""

from pathlib import Path
from typing import Any

import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.design.trials import searches
from kd_hpo.study.run.comparison import best_settings, trials_to_compare
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec, TrialStatus
from tests.conftest import digits_study
from tests.study.helpers import LEARNED, record


def searched(study: StudyConfig, method: str, number: int, state: State, accuracy: float, **settings: Any) -> None:
    folder = StudyFolder.of(study)
    spec = TrialSpec(id=f"{method}-t{number:03d}", kind="search", method=method, seed=0, settings=settings)
    folder.write_status(TrialStatus(spec=spec, state=state, message=f"why {spec.id}" if state == "failed" else ""))
    folder.write_records(spec.id, [record(1, 0.99), record(2, accuracy)])


def settings_found(study: StudyConfig, method: str) -> dict[str, Any] | None:
    return best_settings(study, StudyFolder.of(study), searches(study, (3, 2)), method)


def study_with(tmp_path: Path, *, trials: int, tune: int) -> StudyConfig:
    methods = ["ce", "kd", "uniform", LEARNED]
    return digits_study(tmp_path, search={"trials": trials}, compare={"methods": methods, "tune": tune})


FOUND = {"training.optimizer.lr": 0.1, "kd.weight": 2.0, "pairs.strength": 5.0, "weighting.step": 0.2}


def test_without_a_search_the_settings_are_the_files(tmp_path: Path) -> None:
    assert settings_found(study_with(tmp_path, trials=0, tune=0), "kd") == {}


def test_what_the_search_found_goes_to_the_methods_that_it_acts_on(tmp_path: Path) -> None:
    space = {path: {"kind": "uniform", "low": 0.01, "high": 9} for path in FOUND}
    study = study_with(tmp_path, trials=2, tune=0).replace(search={"trials": 2, "space": space})
    searched(study, LEARNED, 0, "completed", 0.6, **FOUND)
    searched(study, LEARNED, 1, "completed", 0.5, **{**FOUND, "kd.weight": 1.0})
    searched(study, LEARNED, 2, "stopped", 0.9, **{**FOUND, "kd.weight": 1.5})
    assert settings_found(study, LEARNED) == FOUND
    assert settings_found(study, "uniform") == {path: FOUND[path] for path in FOUND if path != "weighting.step"}
    assert settings_found(study, "kd") == {"training.optimizer.lr": 0.1, "kd.weight": 2.0}
    assert settings_found(study, "ce") == {"training.optimizer.lr": 0.1}


def test_a_method_that_is_tuned_has_its_own_best_settings(tmp_path: Path) -> None:
    study = study_with(tmp_path, trials=1, tune=2)
    searched(study, LEARNED, 0, "completed", 0.9, **FOUND)
    searched(study, "kd", 0, "completed", 0.4, **{"kd.weight": 1.0})
    searched(study, "kd", 1, "completed", 0.5, **{"kd.weight": 3.0})
    searched(study, "ce", 0, "failed", 0.5)
    assert settings_found(study, "kd") == {"kd.weight": 3.0}
    assert settings_found(study, "ce") is None


def test_failed_search_is_told(tmp_path: Path) -> None:
    study = study_with(tmp_path, trials=1, tune=0)
    searched(study, LEARNED, 0, "failed", 0.5)
    with pytest.raises(StudyError, match=rf"no trial of the search was completed.*the first failure: why {LEARNED}-t000"):
        settings_found(study, "kd")


def test_what_has_ended_is_left_out_and_a_method_without_settings_fails(tmp_path: Path) -> None:
    study = study_with(tmp_path, trials=1, tune=1).replace(compare={"methods": ["ce", "kd", LEARNED], "seeds": 2, "tune": 1})
    folder = StudyFolder.of(study)
    searched(study, LEARNED, 0, "completed", 0.9, **FOUND)
    searched(study, "kd", 0, "completed", 0.5, **{"kd.weight": 3.0})
    searched(study, "ce", 0, "failed", 0.5)
    done = TrialSpec(id="kd-s0", kind="compare", method="kd", seed=0, settings={"kd.weight": 3.0})
    folder.write_status(TrialStatus(spec=done, state="completed"))
    left = trials_to_compare(study, folder, searches(study, (3, 2)))
    assert [(spec.id, spec.seed) for spec in left] == [(f"{LEARNED}-s0", 0), ("kd-s1", 1), (f"{LEARNED}-s1", 1)]
    assert [spec.settings for spec in left] == [FOUND, {"kd.weight": 3.0}, FOUND]
    failed = [status for status in folder.statuses() if status.spec.kind == "compare" and status.state == "failed"]
    assert [status.spec.id for status in failed] == ["ce-s0", "ce-s1"]
    assert all("why ce-t000" in status.message for status in failed)
