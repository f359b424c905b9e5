"""The trials that are made of an exported matrix: lambda held, replayed or learned anew."""

from pathlib import Path
from typing import Any

import pytest

from kd_hpo.errors import ConfigError, ExportError
from kd_hpo.study.matrices.forms import FORMS, UNSEEN, applied_config, configs_of, forms_of, matrix_of_rank, replayed
from kd_hpo.study.store.export_file import ExportedMatrix, load_export
from kd_hpo.trial.result import TOTAL

START = ((0.5, 0.5), (0.0, 0.0), (0.0, 0.0))
FIRST, SECOND, THIRD = (((0.0, 0.0), (weight, 1 - weight), (0.0, 0.0)) for weight in (0.1, 0.2, 0.3))


@pytest.fixture(scope="module")
def entry(exported: Path) -> ExportedMatrix:
    return matrix_of_rank(load_export(exported), 1)


@pytest.fixture(scope="module")
def of_three_epochs(entry: ExportedMatrix) -> ExportedMatrix:
    """Its trial started from START, and had three epochs."""
    learning: dict[str, Any] = entry.config.weighting.model_dump() | {"start": START}
    config = entry.config.replace(training=entry.config.training.replace(epochs=3).model_dump(), weighting=learning)
    return entry.replace(trajectory=(FIRST, SECOND, THIRD), totals=(1.5, 2.0, 0.5), config=config.model_dump())


def test_a_held_matrix_is_the_held_mean_with_the_layers(exported: Path, entry: ExportedMatrix) -> None:
    config = applied_config(entry, ("training.epochs=7",))
    assert config.training.epochs == 7
    assert config.weighting.model_dump() == {"kind": "fixed", "matrix": entry.held_mean}
    assert config.pairs.strength == entry.config.pairs.strength
    with pytest.raises(ExportError, match="the export has no matrix of rank 3; it has 1, 2"):
        matrix_of_rank(load_export(exported), 3)


def test_a_strength_that_was_learned_is_applied(entry: ExportedMatrix, of_three_epochs: ExportedMatrix) -> None:
    learned = entry.replace(metrics=entry.metrics | {TOTAL: 0.4})
    assert applied_config(learned, ()).pairs.strength == pytest.approx(0.4 * entry.config.pairs.strength)
    for form in ("replayed", "learned"):  # whose strength moves in the trial
        assert applied_config(of_three_epochs, (), form).pairs.strength == entry.config.pairs.strength


def test_a_replayed_matrix_is_the_recorded_one_of_each_epoch(of_three_epochs: ExportedMatrix) -> None:
    weighting = applied_config(of_three_epochs, (), "replayed").weighting.model_dump()
    expected = {"matrices": (FIRST, SECOND, THIRD), "totals": (1.5, 2.0, 0.5), "start": START}
    assert weighting == {"kind": "replay", **expected}


def test_a_longer_or_shorter_trial_has_each_matrix_at_the_same_share_of_it(of_three_epochs: ExportedMatrix) -> None:
    """Of six epochs, the ends of the second, fourth and sixth are those of the recorded three; ends between are the nearer one,
    of two as near the even one, as Python rounds."""
    longer = replayed(of_three_epochs, 6)
    assert longer.matrices == (START, FIRST, SECOND, SECOND, SECOND, THIRD)
    assert longer.totals == (1.0, 1.5, 2.0, 2.0, 2.0, 0.5)
    assert replayed(of_three_epochs, 1).matrices == (THIRD,)
    config = applied_config(of_three_epochs, ("training.epochs=6",), "replayed")
    assert config.weighting == longer


def test_lambda_is_learned_anew_from_its_start_with_its_settings(of_three_epochs: ExportedMatrix) -> None:
    assert applied_config(of_three_epochs, (), "learned").weighting == of_three_epochs.config.weighting
    assert of_three_epochs.config.weighting.start == START  # type: ignore[union-attr]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_has_the_seed_at_which_its_trial_was_the_best(of_three_epochs: ExportedMatrix, form: Any) -> None:
    assert applied_config(of_three_epochs, (), form).seed == of_three_epochs.config.seed + UNSEEN
    assert applied_config(of_three_epochs, ("seed=5",), form).seed == 5


def test_forms_are_those_that_the_export_holds_what_they_need_for(entry: ExportedMatrix) -> None:
    assert forms_of(entry) == FORMS and forms_of(entry, "learned") == ("learned",)
    earlier = entry.replace(trajectory=())
    assert forms_of(earlier) == ("held", "learned")
    with pytest.raises(ExportError, match=r"cannot be replayed: it holds no trajectory.*kd-hpo export.*held or learned"):
        forms_of(earlier, "replayed")
    fixed = entry.replace(config=entry.config.replace(weighting={"kind": "uniform"}).model_dump())
    assert forms_of(fixed) == ("held", "replayed")
    with pytest.raises(ExportError, match="cannot be learned: lambda was not learned"):
        forms_of(fixed, "learned")
    assert forms_of(fixed.replace(trajectory=entry.trajectory[:1] * 3)) == ("held",)  # replayed, it would be the same
    assert forms_of(entry, without=True) == (*FORMS, "without") and forms_of(entry, "without") == ("without",)
    with pytest.raises(ExportError, match="no form 'rushed'; there are held, replayed, learned, without"):
        forms_of(entry, "rushed")  # type: ignore[arg-type]


def test_without_pairs_is_the_trial_without_pairs(entry: ExportedMatrix) -> None:
    alone = applied_config(entry, (), "without")
    assert alone.weighting.kind == "none"
    assert alone.replace(weighting=entry.config.weighting.model_dump(), seed=entry.config.seed) == entry.config


def test_settings_of_lambda_act_on_the_form_that_learns_it(entry: ExportedMatrix) -> None:
    configs = configs_of(entry, ["weighting.step=0.125", "kd.weight=3"])
    assert {config.kd.weight for config in configs.values()} == {3}
    assert configs["learned"].weighting.step == 0.125  # type: ignore[union-attr]
    assert [configs[form].weighting.kind for form in FORMS] == ["fixed", "replay", "learned"]
    with pytest.raises(ConfigError, match=r"weighting\.step"):  # of a form that is named, every setting is meant for it
        configs_of(entry, ["weighting.step=0.125"], "held")
