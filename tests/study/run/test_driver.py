"""What a study is refused for before anything runs, without Ray."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.config.read import replace_path
from kd_hpo.errors import ConfigError, KdHpoError, StudyError
from kd_hpo.study.design.study_file import extended
from kd_hpo.study.run.checks import check_methods, settle_settings
from kd_hpo.study.run.driver import require_all_ended, run_study
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec, TrialStatus
from tests.conftest import digits_study


def test_a_study_that_has_begun_keeps_its_settings(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    settle_settings(study, folder)
    folder.optuna.touch()
    settle_settings(study, folder)  # the same again
    with pytest.raises(StudyError, match=r"in .* already, with another seed\. Give this one another name .* kd-hpo resume small"):
        settle_settings(study.replace(seed=1), folder)
    assert folder.read_settings() == study


def test_settings_may_be_mended_before_the_first_trial(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    settle_settings(study, folder)  # and then its data turned out to be missing
    settle_settings(study.replace(seed=1), folder)
    assert folder.read_settings().seed == 1


def test_a_trial_that_the_study_cannot_end_is_named_with_the_reason(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study")
    ended: dict[str, State] = {"kd-t000": "completed", "kd-t001": "failed", "kd-t002": "stopped"}
    for trial, state in ended.items():
        spec = TrialSpec(id=trial, kind="search", method="kd", seed=0)
        folder.write_status(TrialStatus(spec=spec, state=state))
    require_all_ended(folder)
    folder.write_status(TrialStatus(spec=TrialSpec(id="kd-t003", kind="search", method="kd", seed=0), state="running"))
    with pytest.raises(StudyError, match=r"trial kd-t003 has not ended .*journal.*Remove .*kd-t003, and go on: kd-hpo resume"):
        require_all_ended(folder)


def test_a_study_goes_on_with_the_code_that_its_trials_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_changed.py").write_text("from layers_changed import width\n")
    (tmp_path / "layers_changed.py").write_text("width = 8\n")
    student = {"network": {"name": "net_changed:net"}, "layers": ["a"]}
    study = digits_study(tmp_path / "runs", student=student, compare={"methods": ["ce"], "seeds": 1})
    folder, more = StudyFolder.of(study), study.replace(compare={"methods": ["ce"], "seeds": 2})
    settle_settings(study, folder)
    spec = TrialSpec(id="ce-s0", kind="compare", method="ce", seed=0)
    folder.write_status(TrialStatus(spec=spec, state="failed"))
    (tmp_path / "layers_changed.py").write_text("width = 9  # mended\n")
    settle_settings(study, folder)  # nothing that the old code computed is kept
    folder.write_status(TrialStatus(spec=spec, state="completed"))
    (tmp_path / "layers_changed.py").write_text("width = 10\n")
    with pytest.raises(StudyError, match=r"has changed since trials .* ended: layers_changed\. Undo .*remove .*code\.json"):
        settle_settings(more, folder)
    (tmp_path / "layers_changed.py").write_text("width = 9  # mended\n")
    (tmp_path / "loss_changed.py").write_text("loss = 1\n")
    own = {"name": "mine", "base": "kd", "set": {"pairs.loss": {"kind": "callable", "callable": "loss_changed:loss"}}}
    settle_settings(more.replace(compare={"methods": ["ce", own], "seeds": 2}), folder)  # more code than before
    assert sorted(folder.code()) == ["layers_changed", "loss_changed", "net_changed"]


def test_where_a_study_runs_may_change(tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    settle_settings(study, folder)
    folder.optuna.touch()
    settle_settings(study.replace(resources={"max_failures": 3}), folder)
    assert folder.read_settings().resources.max_failures == 3


def test_a_study_that_has_begun_may_compare_more(tmp_path: Path) -> None:
    own = {"name": "mine", "base": "kd", "set": {"kd.weight": 2.0}}
    study = digits_study(tmp_path, compare={"methods": ["ce", own], "seeds": 2})
    folder = StudyFolder.of(study)
    settle_settings(study, folder)
    folder.trial("ce-s0").mkdir(parents=True)  # without a search
    settle_settings(study.replace(compare={"methods": ["kd", own, "ce"], "seeds": 3}), folder)
    assert folder.read_settings().compare.seeds == 3
    changed = {"name": "mine", "base": "kd", "set": {"kd.weight": 3.0}}
    for compare in (
        {"methods": ["kd", own, "ce"], "seeds": 2},
        {"methods": ["kd", own], "seeds": 3},
        {"methods": ["kd", changed, "ce"], "seeds": 3},
        {"methods": ["kd", own, "ce"], "seeds": 3, "tune": 1},
    ):
        with pytest.raises(StudyError, match="already, with another compare"):
            settle_settings(study.replace(compare=compare), folder)


def test_a_search_may_be_extended_until_its_race_or_comparison_begins(tmp_path: Path) -> None:
    study = digits_study(tmp_path, search={"trials": 4})
    folder = StudyFolder.of(study)
    settle_settings(study, folder)
    folder.optuna.touch()
    longer = extended(folder, ["search.trials=9", "search.hours=2", "search.until=0.9"])
    settle_settings(longer, folder)
    assert folder.read_settings() == longer and longer.search.trials == 9 and longer.runs == study.runs
    with pytest.raises(StudyError, match=r"with another search\.seed, search\.trials, training\.epochs\."):
        settle_settings(extended(folder, ["search.trials=8", "search.seed=3", "training.epochs=9"]), folder)
    folder.write_status(TrialStatus(spec=TrialSpec(id="ce-s0", kind="compare", method="ce", seed=0), state="completed"))
    settle_settings(extended(folder, ["compare.seeds=7", "search.trial_hours=1"]), folder)
    for late in ("search.trials=10", "search.hours=3", "search.until=null"):
        with pytest.raises(StudyError, match=rf"another {late.partition('=')[0]} comes too late\."):
            settle_settings(extended(folder, [late]), folder)
    with pytest.raises(ConfigError, match="--set name: a study goes on under its name"):
        extended(folder, ["name=other"])


def test_range_that_does_not_fit_its_method_is_told_before_anything_runs(tmp_path: Path) -> None:
    own = {"name": "mine", "base": "kd", "space": {"weighting.step": {"kind": "uniform", "low": 0.1, "high": 0.2}}}
    study = digits_study(tmp_path, compare={"methods": [own], "tune": 1})
    with pytest.raises(ConfigError, match=r"the space of method 'mine' cannot choose 0\.1: .*weighting\.step is not a path"):
        check_methods(study)
    check_methods(study.replace(compare={"methods": [own]}))


ONE_PAIR = {"kind": "one_pair", "teacher": "fc", "student": "x"}


@pytest.mark.parametrize(("changes", "words"), [
    ({"student.layers": ["conv1", "convv2"]}, r"^student: PlainConv has no layer 'convv2'; did you mean 'conv2'"),
    ({"teacher.layers": ["conv9"]}, r"^teacher: PlainConv has no layer 'conv9'; "),
    (
        {"compare.methods": ["kd", {"name": "maps", "base": "uniform", "set": {"pairs.loss": {"kind": "attention"}}}]},
        r"^method maps: the loss attention cannot compare teacher layer conv1 \(8x4x4\) with student layer fc .*leave_out$",
    ),
    (
        {"compare.methods": ["at"], "teacher.layers": ["conv1", "fc"], "student.layers": ["conv1"]},
        r"^method at: the weighting has only pairs that the loss cannot compare: fc -> conv1; choose other layers",
    ),
    (
        {"compare.methods": [{"name": "far", "base": "ifm", "set": {"assistants.0.layers": ["conv7"]}}]},
        r"^method far: assistant 1: student: PlainConv has no layer 'conv7'",
    ),
    (
        {"compare.methods": [{"name": "one", "base": "vid", "set": {"weighting": ONE_PAIR}}]},
        r"^method one: weighting.student is 'x', which is not among the student layers of the study: conv1, fc",
    ),
    ({"training.batch_size": 300}, r"^method ce: the train split has 240 images, less than one batch of 300; "),
])  # fmt: skip
def test_what_does_not_go_together_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], words: str
) -> None:
    monkeypatch.setattr("kd_hpo.trial.parts.trained_teacher", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr("kd_hpo.study.run.driver.ray_running", lambda *_: pytest.fail("started Ray"))
    study = digits_study(tmp_path)
    for path, value in changes.items():
        study = replace_path(study, path, value)
    with pytest.raises(KdHpoError, match=words) as told:
        run_study(study, Console(file=StringIO()))
    assert "\n" not in str(told.value)
