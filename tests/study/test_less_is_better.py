"""A task whose metric is an error: whatever is called the best is the least, and says so."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from kd_hpo.config.task import Classification, Goal
from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.report.list_studies import _best_method
from kd_hpo.study.report.plots import search_figure, settings_figure
from kd_hpo.study.report.report import best_in_words
from kd_hpo.study.results.arms import winner
from kd_hpo.study.results.best import learned_trials
from kd_hpo.study.results.comparison import Comparison, MethodScores, Scores, mean_ranks
from kd_hpo.study.results.significance import against_controls
from kd_hpo.study.results.standing import searched_points, standing
from kd_hpo.study.run.progress import ProgressReporter
from kd_hpo.study.run.status_keeper import StatusKeeper
from kd_hpo.study.search.method_search import EPOCH
from kd_hpo.study.store.folder import StudyFolder, TrialSpec
from kd_hpo.study.tracking.descriptions import experiment_note, ranking_of, trial_note
from kd_hpo.study.tracking.tags import goal_of, trial_tags
from kd_hpo.trial.result import EpochRecord, TrialResult
from tests.conftest import digits_study
from tests.study.helpers import UNIFORM, add_completed, result_of
from tests.study.run.test_progress import RayTrial

ERROR = Goal("error", "min")
NAN = float("nan")


@pytest.fixture(autouse=True)
def less_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "goal", ERROR)


def reached(*errors: float) -> TrialResult:
    """A trial with these errors after its epochs."""
    return result_of(
        [
            EpochRecord(epoch=i, metrics={"val/error": error, "val/loss": 1 - error}, weights=UNIFORM, scales=UNIFORM, held=True)
            for i, error in enumerate(errors, 1)
        ]
    )


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Of a study whose search has ended with errors .4, .2 and .3."""
    folder = StudyFolder.of(digits_study(tmp_path))
    for number, error in enumerate((0.4, 0.2, 0.3)):
        spec = TrialSpec(id=f"hetero-t{number:03d}", kind="search", method="hetero", seed=0, settings={"kd.weight": 1.0 + number})
        add_completed(folder, spec, reached(0.5, error))
    return folder


def test_the_best_epoch_is_the_earliest_of_the_lowest() -> None:
    assert reached(0.5, 0.2, 0.2, 0.4).best.epoch == 2


def test_the_best_trial_is_the_lowest(folder: StudyFolder, tmp_path: Path) -> None:
    study = digits_study(tmp_path)
    best = winner(study, folder, "hetero")
    assert best is not None and best.spec.id == "hetero-t001"
    assert [spec.id for spec, _ in learned_trials(study, folder)] == ["hetero-t001", "hetero-t002", "hetero-t000"]
    assert standing(study, folder).best == standing(study, folder).search["hetero"].best == 0.2
    assert "**Best: hetero-t001**, val/error 0.2000" in experiment_note(ranking_of(study, folder), "7", "s")
    assert "it has the lowest error on `val`" in experiment_note(ranking_of(study, folder), "7", "s")
    status, records = folder.status("hetero-t001"), list(reached(0.2, 0.3).records)
    assert status is not None
    note = trial_note(status, records, "7", "r", (("a", "b", "c"), ("a", "b")), ERROR)
    assert "Error on `val`: 0.3000 after epoch 2, at best 0.2000 after epoch 1." in note


def test_pictures_and_words_of_a_search_name_the_lowest(folder: StudyFolder) -> None:
    searches = searched_points(folder, ERROR)
    assert best_in_words(searches["hetero"], ERROR) == "0.2000 (hetero-t001)"
    figure = search_figure(searches, ERROR)
    (so_far,) = (line for line in figure.axes[0].lines if line.get_label() == "best so far")
    assert list(so_far.get_ydata()) == [0.4, 0.2, 0.2] and figure.get_supylabel() == "error on val"  # type: ignore[arg-type]
    (best,) = (line for line in settings_figure(searches["hetero"], ERROR).axes[0].lines if line.get_label() == "best completed")
    assert list(best.get_ydata()) == [0.2]  # type: ignore[arg-type]


def test_progress_follows_the_lowest(tmp_path: Path) -> None:
    folder, told = StudyFolder(tmp_path), StringIO()
    keeper, console = StatusKeeper(folder, StudyStopper()), Console(file=told, width=200)
    layers = ["conv1"], ["conv1"]
    board = ProgressReporter(console, "search", folder, keeper, goal=ERROR, trials=2, epochs=3, layers=layers, each_epoch=True)
    for name, error in (("a", 0.4), ("b", 0.2), ("c", 0.3)):
        board.on_trial_result(0, [], RayTrial(name), {EPOCH: 1, "val/error": error})
    assert "b: epoch 1 of 3, error on val 0.2000" in told.getvalue()
    assert "best 0.2000 (b)" in board._line().plain


def test_a_comparison_turns_round() -> None:
    def method(name: str, tests: list[float], *, is_control: bool = True) -> MethodScores:
        by_seed = {seed: Scores(test, test, test, 1.0) for seed, test in enumerate(tests)}
        return MethodScores(name, name, by_seed, (), is_control, 10, False, NAN, "none")

    learned, good, poor = (
        method("learned", [0.11, 0.1, 0.1], is_control=False),
        method("good", [0.2, 0.25, 0.2]),
        method("poor", [0.5] * 3),
    )
    compared = Comparison("small", (learned, poor, good), (0, 1, 2), 4, {"val": 0.1, "test": 0.1}, {}, ERROR)
    assert compared.control is good and _best_method(compared)[1] == "learned"
    assert list(compared.frame()["rank"]) == [1, 3, 2]
    assert mean_ranks([{0: 0.2}, {}], [0], ERROR)[0] == 1  # one that failed is last all the same
    assert [test.sign for test in against_controls(compared, "learned")] == ["better", "better"]
    assert compared.document()["columns"]["val"] == "error on val after the last epoch"


def test_a_tracker_is_told_which_way_is_better(tmp_path: Path) -> None:
    spec = TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=0)
    assert goal_of(trial_tags(digits_study(tmp_path), spec)) == ERROR
    assert goal_of({"kd.study": "small"}) == Classification.goal
