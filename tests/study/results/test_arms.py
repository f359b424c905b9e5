"""Which arms race, and which one is the answer."""

from pathlib import Path

import pytest

from kd_hpo.config.arms import ARM
from kd_hpo.config.study import StudyConfig
from kd_hpo.study.design.trials import searches, trial_config
from kd_hpo.study.matrices.export import export_study
from kd_hpo.study.results.arms import RACED, answer, race_specs, runners, winner
from kd_hpo.study.results.best import learned_trials, seed_of_searches, start_of_lambda
from kd_hpo.study.results.comparison import title_in_table
from kd_hpo.study.results.standing import learned_weights, standing
from kd_hpo.study.run.comparison import best_settings, trials_to_compare, trials_to_race
from kd_hpo.study.run.retry import retry_failed
from kd_hpo.study.store.export_file import load_export
from kd_hpo.study.store.folder import StudyFolder, TrialSpec, TrialStatus
from tests.conftest import digits_study
from tests.study.helpers import LEARNED, UNIFORM, add_completed, record, result_of

SPACE = {"kd.weight": {"kind": "uniform", "low": 0.5, "high": 9.0}}
NARROW = ((1.0, 0.0), (0.0, 0.0), (0.0, 0.0))


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    search = {"trials": 5, "arms": ["learned", "kd", "uniform", "few"], "race": {"arms": 2, "seeds": 2}, "space": SPACE}
    return digits_study(tmp_path, search=search, compare={"methods": ["kd", LEARNED], "seeds": 1}, seed=7)


@pytest.fixture
def folder(study: StudyConfig) -> StudyFolder:
    return StudyFolder.of(study)


def search(study: StudyConfig, **reached: float) -> None:
    """A completed trial of each arm, and a worse one of the first: kd.weight grows with their number."""
    arms = [*reached.items(), (next(iter(reached)), 0.01)]
    for number, (arm, accuracy) in enumerate(arms):
        settings = {ARM: arm, "kd.weight": 1.0 + number}
        spec = TrialSpec(id=f"{LEARNED}-t{number:03d}", kind="search", method=LEARNED, seed=0, settings=settings)
        add(study, spec, accuracy)


def add(study: StudyConfig, spec: TrialSpec, accuracy: float) -> None:
    config = trial_config(study, spec)
    weights = NARROW if config.weighting.learning else UNIFORM if config.weighting.paired else ()
    add_completed(StudyFolder.of(study), spec, result_of([record(1, accuracy, weights)], config))


def race(study: StudyConfig, **reached: list[float]) -> None:
    specs = race_specs(study, StudyFolder.of(study), LEARNED).values()
    for arm, accuracies in reached.items():
        for spec, accuracy in zip([spec for spec in specs if spec.settings[ARM] == arm], accuracies, strict=True):
            add(study, spec, accuracy)


def test_the_best_that_learns_and_the_best_control_race_at_seeds_of_their_own(study: StudyConfig, folder: StudyFolder) -> None:
    assert runners(study, folder, LEARNED) == [] and winner(study, folder, LEARNED) is None
    search(study, learned=0.5, kd=0.6, uniform=0.7, few=0.4)
    assert [status.spec.settings for status in runners(study, folder, LEARNED)] == [
        {ARM: "uniform", "kd.weight": 3.0},
        {ARM: "learned", "kd.weight": 1.0},
    ]
    specs = list(race_specs(study, folder, LEARNED).values())
    assert [spec.seed for spec in specs] == [7 + RACED, 7 + RACED, 8 + RACED, 8 + RACED]
    assert {spec.kind for spec in specs} == {"race"} and len({spec.id for spec in specs}) == 4
    assert specs[0].settings == {ARM: "uniform", "kd.weight": 3.0}
    assert seed_of_searches(study, folder) not in {spec.seed for spec in specs}
    more = study.replace(search=study.search.replace(race={"arms": 3, "seeds": 2}).model_dump())
    assert [status.spec.settings[ARM] for status in runners(more, folder, LEARNED)] == ["uniform", "kd", "learned"]


def test_one_arm_alone_does_not_race(study: StudyConfig, folder: StudyFolder) -> None:
    search(study, learned=0.5)
    assert race_specs(study, folder, LEARNED) == {}
    found = winner(study, folder, LEARNED)
    assert found is not None and found.spec.settings[ARM] == "learned"


def test_the_answer_is_the_best_of_the_race_whatever_the_search_had(study: StudyConfig, folder: StudyFolder) -> None:
    search(study, learned=0.5, kd=0.6, uniform=0.7, few=0.4)
    before = answer(study, folder, LEARNED)
    assert before is not None and (before.arm, before.seeds) == ("uniform", 0) and before.ahead != before.ahead
    race(study, uniform=[0.5, 0.6])
    assert len(trials_to_race(study, folder)) == 2  # and until they have ended, what the search says holds
    assert (found := answer(study, folder, LEARNED)) is not None and found.seeds == 0
    race(study, learned=[0.55, 0.64])
    assert trials_to_race(study, folder) == []
    found = answer(study, folder, LEARNED)
    assert found is not None and (found.arm, found.learns, found.seeds) == ("learned", True, 2)
    assert (found.learning, found.control) == ("learned", "uniform")
    assert found.ahead == pytest.approx(0.045)
    assert found.error == pytest.approx(0.005)  # of .05 and .04: their deviation over the root of two
    assert best_settings(study, folder, searches(study, (3, 2)), LEARNED) == {ARM: "learned", "kd.weight": 1.0}


def test_what_the_search_goes_by_chooses_and_the_metric_is_told(study: StudyConfig, folder: StudyFolder) -> None:
    study = study.replace(search=study.search.replace(by="loss").model_dump())  # 1 - accuracy in these records
    search(study, learned=0.5, uniform=0.7)
    race(study, uniform=[0.5, 0.5], learned=[0.4, 0.55])
    found = answer(study, folder, LEARNED)
    assert found is not None and found.arm == "uniform" and found.ahead == pytest.approx(-0.025)


def test_an_arm_whose_settings_led_nowhere_is_out_and_a_seed_that_one_lacks_counts_for_none(
    study: StudyConfig, folder: StudyFolder
) -> None:
    search(study, learned=0.5, uniform=0.7)
    race(study, learned=[0.4, 0.4])
    first, second = (s for s in race_specs(study, folder, LEARNED).values() if s.settings[ARM] == "uniform")
    add(study, first, 0.6)
    folder.write_status(TrialStatus(spec=second, state="failed", message="the node went away"))
    found = answer(study, folder, LEARNED)
    assert found is not None and (found.arm, found.seeds, found.ahead) == ("uniform", 1, pytest.approx(-0.2))
    folder.write_status(TrialStatus(spec=second, state="failed", message="the loss is not finite", of_settings=True))
    found = answer(study, folder, LEARNED)
    assert found is not None and (found.arm, found.control, found.seeds) == ("learned", None, 2)
    assert retry_failed(folder, {}) == [second.id] and [spec.id for spec in trials_to_race(study, folder)] == [second.id]


def test_the_answers_matrices_come_first_held_ones_too(study: StudyConfig, folder: StudyFolder) -> None:
    search(study, learned=0.5, uniform=0.7, kd=0.6)
    assert [spec.settings[ARM] for spec, _ in learned_trials(study, folder)] == ["uniform", "learned", "learned"]
    race(study, uniform=[0.1, 0.1], learned=[0.2, 0.2])
    first, *_ = learned_trials(study, folder)
    assert first[0].settings[ARM] == "learned"
    assert {spec.settings[ARM] for spec, _ in learned_trials(study, folder)} == {"learned"}  # no control's


def test_the_export_says_what_the_search_has_come_to(study: StudyConfig, folder: StudyFolder, tmp_path: Path) -> None:
    search(study, learned=0.5, uniform=0.7)
    race(study, uniform=[0.6, 0.6], learned=[0.2, 0.2])
    export_study(study, folder, tmp_path / "lambda.json", top=3)
    export = load_export(tmp_path / "lambda.json")
    assert export.answer is not None and (export.answer.arm, export.answer.learns) == ("uniform", False)
    assert (export.answer.ahead, export.answer.error) == (pytest.approx(-0.4), 0.0)
    assert [entry.held_mean for entry in export.matrices] == [UNIFORM, UNIFORM, UNIFORM]  # of its search, and of its race


def test_seeds_of_the_comparison_are_of_the_answer_and_show_what_it_holds(study: StudyConfig, folder: StudyFolder) -> None:
    search(study, learned=0.5, uniform=0.7)
    race(study, uniform=[0.6, 0.6], learned=[0.2, 0.2])
    (spec,) = [spec for spec in trials_to_compare(study, folder, searches(study, (3, 2))) if spec.method == LEARNED]
    assert spec.settings == {ARM: "uniform", "kd.weight": 2.0} and spec.start is None
    add(study, spec, 0.6)
    shown = learned_weights(study, folder)
    assert shown is not None and shown.compared and shown.matrix == UNIFORM
    assert shown.answer is not None and shown.answer.arm == "uniform"
    assert standing(study, folder).race == {}  # five trials are asked for, and three are there
    counts = standing(study.replace(search=study.search.replace(trials=3).model_dump()), folder)
    assert (counts.race[LEARNED].ended, counts.race[LEARNED].planned) == (4, 4)


def test_without_pairs_as_the_answer_the_best_matrix_is_shown_with_it(study: StudyConfig, folder: StudyFolder) -> None:
    search(study, learned=0.5, kd=0.7)
    race(study, kd=[0.6, 0.6], learned=[0.2, 0.2])
    (spec,) = [spec for spec in trials_to_compare(study, folder, searches(study, (3, 2))) if spec.method == LEARNED]
    add(study, spec, 0.6)
    shown = learned_weights(study, folder)
    assert shown is not None and not shown.compared and shown.answer is not None and shown.answer.arm == "kd"


def test_lambda_goes_on_from_a_control_that_is_the_best_so_far_unless_it_says_nothing(
    study: StudyConfig, folder: StudyFolder
) -> None:
    carried = study.replace(search=study.search.replace(carry_lambda=True, arms=["learned", "uniform", "diagonal"]).model_dump())
    search(carried, learned=0.5, uniform=0.7)
    assert start_of_lambda(carried, folder, LEARNED) is None
    spec = TrialSpec(id=f"{LEARNED}-t005", kind="search", method=LEARNED, seed=0, settings={ARM: "diagonal", "kd.weight": 1.0})
    diagonal = ((0.5, 0.0), (0.0, 0.0), (0.0, 0.5))
    add_completed(folder, spec, result_of([record(1, 0.9, diagonal)], trial_config(carried, spec)))
    assert start_of_lambda(carried, folder, LEARNED) == diagonal


@pytest.mark.parametrize(
    ("arm", "more"), [("uniform", "; come to equal weights, held"), ("kd", "; come to no pairs"), ("few", "")]
)
def test_the_row_of_a_search_that_came_to_a_control_says_so(study: StudyConfig, arm: str, more: str) -> None:
    spec = TrialSpec(id=f"{LEARNED}-s7", kind="compare", method=LEARNED, seed=7, settings={ARM: arm})
    assert title_in_table(study, spec, trial_config(study, spec)) == f"KD + learned lambda{more}"
