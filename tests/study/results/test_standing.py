"""How far a study has come and what it has learned, from folders made by hand."""

import fcntl
import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.weightings import NoPairs
from kd_hpo.errors import StudyError
from kd_hpo.study.report.comparison import caption
from kd_hpo.study.report.list_studies import list_studies, studies_table
from kd_hpo.study.report.sentences import headline, missing, next_commands, pairs_in_words, progress_of, whose
from kd_hpo.study.results.comparison import compared, read_comparison
from kd_hpo.study.results.final_scores import shared_scores
from kd_hpo.study.results.findings import read_findings
from kd_hpo.study.results.standing import learned_weights, searched_points, standing
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from kd_hpo.trial.parts import Prepared
from tests.conftest import digits_study, digits_trial
from tests.study.helpers import LEARNED, add_compared, add_completed, add_search, record, result_of

CORNER = ((0.0, 1.0), (0.0, 0.0), (0.0, 0.0))
OTHER = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
PLAIN = result_of([record(1, 0.4, ()), record(2, 0.5, ())], digits_trial(weighting=NoPairs()))


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    """Six trials of a search and two methods at two seeds are planned; nothing has begun."""
    study = digits_study(tmp_path, search={"trials": 6}, compare={"methods": ["ce", LEARNED], "seeds": 2})
    StudyFolder.of(study).write_settings(study)
    return study


def finish(study: StudyConfig, prepared: Prepared) -> StudyFolder:
    folder = StudyFolder.of(study)
    add_search(folder, LEARNED, [0.5, 0.6, 0.7, 0.8, 0.9], failed=1)
    add_compared(folder, "ce", [0.5, 0.6], PLAIN)
    add_compared(folder, LEARNED, [0.7, 0.9], result_of([record(1, 0.6, CORNER), record(2, 0.95, OTHER)]))
    compared(study, folder, shared_scores(prepared), {}).write(folder)
    return folder


def test_study_that_has_not_begun(study: StudyConfig) -> None:
    stands = standing(study, StudyFolder.of(study))
    assert (stands.state, stands.ended, stands.planned) == ("unfinished", 0, 10)
    assert math.isnan(stands.best)
    assert progress_of(stands) == "unfinished, 0 of 10 trials"
    findings = read_findings(StudyFolder.of(study))
    assert (findings.comparison, findings.learned) == (None, None)
    assert headline(findings) == ["The study is unfinished, 0 of 10 trials."]
    assert [line.split(" has ")[0] for line in missing(findings)][:2] == ["The search", "The comparison"]
    assert [command.split()[:3] for command, _ in next_commands(findings)] == [["kd-hpo", "resume", "small"]]


def test_study_in_the_middle_has_the_matrix_of_its_best_trial(study: StudyConfig) -> None:
    folder = StudyFolder.of(study)
    add_search(folder, LEARNED, [0.5, 0.8, 0.7], CORNER, failed=1)
    add_compared(folder, "ce", [0.6], PLAIN)
    stands = standing(study, folder)
    assert (stands.state, stands.ended, stands.planned, stands.best) == ("unfinished", 5, 10, 0.8)
    assert {name: (count.ended, count.planned) for name, count in stands.compare.items()} == {"ce": (1, 2), LEARNED: (0, 2)}
    learned = learned_weights(study, folder)
    assert learned is not None and (learned.trials, learned.compared) == ((f"{LEARNED}-t001",), False)
    assert learned.matrix == CORNER
    assert "2 of 6 trials to go" in missing(read_findings(folder))[0]


def test_finished_study_has_the_mean_over_seeds_and_its_course(study: StudyConfig, prepared: Prepared) -> None:
    folder = finish(study, prepared)
    stands = standing(study, folder)
    assert (stands.state, progress_of(stands), stands.ended, stands.planned, stands.best) == (
        "finished",
        "finished",
        10,
        10,
        0.95,
    )
    learned = learned_weights(study, folder)
    assert learned is not None and whose(learned) == f"{LEARNED}, mean of 2 seeds"
    assert learned.matrix == OTHER and learned.epochs == (1, 2)
    assert learned.course == (CORNER, OTHER)
    assert missing(read_findings(folder)) == []


def test_learned_matrix_is_the_mean_of_what_was_held_with_its_range_over_the_seeds(tmp_path: Path) -> None:
    """Held are (.7, .3), (.2, .8) and (.6, .4): the mean is (.5, .5), the least (.2, .3), the most (.7, .8)."""
    study = digits_study(tmp_path, compare={"methods": [LEARNED], "seeds": 3})
    folder = StudyFolder.of(study)
    for seed, first in enumerate((0.7, 0.2, 0.6)):
        held = ((first, 0.0), (0.0, 1 - first), (0.0, 0.0))
        result = result_of([record(1, 0.5, CORNER), record(2, 0.6, OTHER)]).replace(held_mean=held)
        spec = TrialSpec(id=f"{LEARNED}-s{seed}", kind="compare", method=LEARNED, seed=seed)
        add_completed(folder, spec, result)
    learned = learned_weights(study, folder)
    assert learned is not None and len(learned.trials) == 3
    for matrix, expected in ((learned.matrix, (0.5, 0.5)), (learned.low, (0.2, 0.3)), (learned.high, (0.7, 0.8))):
        np.testing.assert_allclose(matrix, [[expected[0], 0], [0, expected[1]], [0, 0]], atol=1e-12)
    assert pairs_in_words(learned) == [
        ("conv1", "conv1", "0.500 (0.200 to 0.700 over the seeds)"),
        ("conv2", "fc", "0.500 (0.300 to 0.800 over the seeds)"),
    ]


def test_finished_study_of_which_more_is_asked_is_not_finished(study: StudyConfig, prepared: Prepared) -> None:
    folder = finish(study, prepared)
    more = study.replace(compare={"methods": ["ce", "kd", LEARNED], "seeds": 2})
    folder.write_settings(more)
    assert progress_of(standing(more, folder)) == "unfinished, 10 of 12 trials"
    assert "More methods or seeds were asked for" in missing(read_findings(folder))[-1]


def test_a_trial_that_has_not_ended_leaves_its_study_unfinished(study: StudyConfig, prepared: Prepared) -> None:
    folder = finish(study, prepared)
    status = folder.statuses()[-1]
    assert standing(study, folder).state == "finished"
    folder.write_status(status.replace(state="running"))
    assert standing(study, folder).state == "unfinished"


def test_study_that_a_process_drives_is_running(study: StudyConfig) -> None:
    folder = StudyFolder.of(study)
    with folder.only_driver():
        assert standing(study, folder).state == "running"
        assert next_commands(read_findings(folder))[0][0].startswith("kd-hpo show small")
    assert standing(study, folder).state == "unfinished"
    with (folder.root / ".lock").open("w") as file:  # looking at it has not kept the lock
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_comparison_is_read_as_it_was_written(study: StudyConfig, prepared: Prepared) -> None:
    folder = finish(study, prepared)
    written, found = compared(study, folder, shared_scores(prepared), {}), read_comparison(study, folder)
    assert found is not None and found.document() == written.document()
    assert [method.is_control for method in found.methods] == [True, False]
    assert caption(found) == caption(written)


def test_broken_files_are_named(study: StudyConfig, prepared: Prepared) -> None:
    folder = finish(study, prepared)
    folder.comparison("json").write_text("{}")
    with pytest.raises(StudyError, match=r"comparison\.json is broken .*`kd-hpo resume small --runs "):
        read_findings(folder)
    (folder.trial("ce-s0") / "status.json").write_text('{"state": 1')
    with pytest.raises(StudyError, match=r"ce-s0/status\.json is broken .*go on without .*: kd-hpo resume small"):
        read_findings(folder)


def test_points_of_a_search(study: StudyConfig) -> None:
    folder = StudyFolder.of(study)
    add_search(folder, LEARNED, [0.5], failed=1)
    completed, failed = searched_points(folder, study.task.goal)[LEARNED]
    assert completed == {
        "trial": f"{LEARNED}-t000",
        "state": "completed",
        "score": 0.5,
        "kd.weight": 1.0,
        "pairs.loss.kind": "gaussian",
    }
    assert (failed["state"], failed["score"]) == ("failed", None)


def test_studies_of_a_folder(study: StudyConfig, prepared: Prepared) -> None:
    finish(study, prepared)
    (study.runs / "begun").mkdir()
    StudyFolder.of(study.replace(name="begun")).write_settings(study.replace(name="begun"))
    (study.runs / "broken").mkdir()
    (study.runs / "broken" / "study.yaml").write_text("sede: 1")
    (study.runs / "cache").mkdir()
    begun, broken, small = list_studies(study.runs)
    assert (begun.study, begun.state, begun.ended, begun.planned) == ("begun", "unfinished", 0, 10)
    assert (broken.study, broken.state) == ("broken", "broken") and "sede" in broken.problem
    assert (small.study, small.state, small.val, small.test, small.method) == ("small", "finished", 0.95, 0.8, LEARNED)
    assert datetime.now().astimezone() - small.changed < timedelta(minutes=5)
    assert studies_table([begun, broken, small], 80)
