"""What the best trial of a search hands on to the next ones."""

from pathlib import Path

import pytest

from kd_hpo.config.study import StudyConfig
from kd_hpo.config.task import Classification
from kd_hpo.config.weightings import LearnedWeights, Uniform
from kd_hpo.study.design.trials import compared_ids, trial_config
from kd_hpo.study.results.best import seed_of_searches, start_of_lambda, start_of_seeds
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec, TrialStatus
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.result import RESULT, EpochRecord
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_study

START = ((0.1, 0.0), (0.0, 0.2), (0.3, 0.4))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "small")


def study(folder: StudyFolder, *, carry: bool = True, by: str = "accuracy") -> StudyConfig:
    return digits_study(folder.root.parent, search={"carry_lambda": carry, "method": "hetero", "by": by})


def searched(folder: StudyFolder, cache: Path, number: int, *, val: float, weighting: object, state: State = "completed") -> None:
    start = START if number == 1 else None
    spec = TrialSpec(id=f"hetero-t{number:03d}", kind="search", method="hetero", seed=number, start=start)
    config = (
        study(folder).trial().replace(seed=number, weighting=weighting, training={"epochs": 2, "batch_size": 32}, pairs=PAIRS)
    )
    result = run_trial(config, lambda _: None, cache=cache)
    folder.write_status(TrialStatus(spec=spec, state=state))
    metrics = {Classification.goal.on("val"): val, Classification.loss.on("val"): val}
    folder.write_records(spec.id, [EpochRecord(epoch=2, metrics=metrics, weights=(), scales=(), held=True)])
    (folder.trial(spec.id) / RESULT).write_text(result.model_dump_json())


PAIRS = {"balance": {"kind": "gradient", "measures": 1}}
LEARNED = LearnedWeights(every=1, warmup=0.0, hold=0.5, step=0.3, evidence=False).model_dump()


def test_the_best_completed_trial_hands_on_the_matrix_that_it_held(folder: StudyFolder, cache: Path, prepared: Prepared) -> None:
    assert start_of_lambda(study(folder), folder, "hetero") is None
    for number, (val, state) in enumerate([(0.4, "completed"), (0.6, "completed"), (0.9, "stopped"), (0.5, "completed")]):
        searched(folder, cache, number, val=val, weighting=LEARNED, state=state)  # type: ignore[arg-type]
    best = folder.result("hetero-t001")
    assert start_of_lambda(study(folder), folder, "hetero") == best.held_mean
    least = folder.result("hetero-t000")
    assert start_of_lambda(study(folder, by="loss"), folder, "hetero") == least.held_mean
    assert best.held_mean != least.held_mean
    assert start_of_lambda(study(folder, carry=False), folder, "hetero") is None
    assert start_of_lambda(study(folder), folder, "uniform") is None
    assert start_of_seeds(study(folder), folder, "hetero") == START  # what the best one started from, and not where it ended
    assert start_of_seeds(study(folder, by="loss"), folder, "hetero") is None
    assert start_of_seeds(study(folder, carry=False), folder, "hetero") is None
    assert start_of_seeds(study(folder), folder, "uniform") is None


def test_what_was_not_learned_is_not_handed_on(folder: StudyFolder, cache: Path, prepared: Prepared) -> None:
    searched(folder, cache, 0, val=0.5, weighting=Uniform().model_dump())
    assert start_of_lambda(study(folder), folder, "hetero") is None


def test_a_trial_starts_from_what_was_handed_on(folder: StudyFolder) -> None:
    spec = TrialSpec(id="hetero-s0", kind="compare", method="hetero", seed=0, start=START, settings={"kd.weight": 0.5})
    config = trial_config(study(folder), spec)
    assert isinstance(config.weighting, LearnedWeights)
    assert config.weighting.start == START
    assert config.kd.weight == 0.5


def test_no_seed_of_the_comparison_is_that_of_the_searches_but_where_they_have_begun_so(tmp_path: Path) -> None:
    """However many seeds are asked for later."""
    small = digits_study(tmp_path, seed=3, compare={"methods": ["ce"], "seeds": 10_000})
    folder = StudyFolder.of(small)
    compared = {seed for _, seed in compared_ids(small).values()}
    assert compared == set(range(3, 10_003)) and seed_of_searches(small, folder) not in compared
    folder.write_status(TrialStatus(spec=TrialSpec(id="ce-s4", kind="compare", method="ce", seed=4), state="completed"))
    assert seed_of_searches(small, folder) not in compared
    folder.write_status(TrialStatus(spec=TrialSpec(id="hetero-t000", kind="search", method="hetero", seed=3), state="stopped"))
    assert seed_of_searches(small, folder) == 3
