"""A comparison in words, from a folder made by hand."""

from dataclasses import replace
from pathlib import Path

from kd_hpo.study.report.comparison import caption, comparison_in_markdown, failures
from kd_hpo.study.results.comparison import Comparison
from kd_hpo.trial.parts import Prepared
from tests.study.helpers import LEARNED
from tests.study.results.test_comparison import add, comparison, comparison_of, study, study_of

__all__ = ["comparison", "study"]


def test_caption_says_what_the_numbers_depend_on(comparison: Comparison, prepared: Prepared) -> None:
    told = "\n".join(caption(comparison))
    assert "less that of mine, the best control" in told and "best: on test" in told
    assert "Seeds 0 to 2." in told
    assert "Budget: 28 inner steps a trial (4 epochs)." in told
    assert f"train 240 images {prepared.splits.digests['train'][:8]}" in told
    assert f"Teacher: val {prepared.teacher.val.value:.4f}, test 0." in told
    assert f"Tuning of ce, mine, sp, {LEARNED}: none." in told


def test_caption_beside_columns_that_are_told_elsewhere(comparison: Comparison) -> None:
    told = "\n".join(caption(comparison, table=False))
    assert "less that of" not in told and "best: on test" not in told and "Seeds 0 to 2." in told


def test_what_failed_is_told_by_method(comparison: Comparison) -> None:
    assert failures(comparison) == ["mine: 1 of 3 trials failed: it diverged", "sp: 3 of 3 trials failed: it diverged"]


def test_unequal_budgets_assistants_one_seed_and_no_control_are_told(tmp_path: Path, prepared: Prepared) -> None:
    longer = {"name": "longer", "base": "kd", "set": {"training.epochs": 8}}
    given = study_of(tmp_path, "kd", longer, "takd", "ifm", seeds=1)
    add(given, "takd", 0, [0.6])  # whose teacher has .9 on val
    told = caption(comparison_of(given, prepared))
    assert "Budget: 28 to 56, not the same for all, inner steps a trial (4 epochs)." in told and "Seed 0." in told
    assert "Before its steps an assistant, which then teaches, is trained for takd (val 0.9000), ifm (val -)." in told
    assert "There is no control to compare with." in caption(comparison_of(study_of(tmp_path, LEARNED, seeds=1), prepared))
    assert comparison_in_markdown(comparison_of(study_of(tmp_path), prepared))


def test_markdown_has_the_table_and_its_conditions(comparison: Comparison) -> None:
    text = comparison_in_markdown(comparison)
    assert "| student alone | 0.5000 ±.1000 | 0.7000 ±.0000 | 0.6000 ±.1000 | 2.7 | 11 | -0.1000 | - | unknown |" in text
    assert "| mine | 0.5500 ±.0707 | 0.5500 ±.0707 | 0.6500 ±.0707 | 2.5 | 10 | - | - | - |" in text
    assert "| - | - | - | - | - | - | - | unknown |" in text and "sp: 3 of 3 trials failed: it diverged" in text
    assert "Seeds 0 to 2." in text


def test_what_was_chosen_is_told_for_each_method(comparison: Comparison) -> None:
    settings = {"training.optimizer.lr": 0.0123456, "training.batch_size": 16, "weighting.matrix.0.0": 0.3}
    methods = [replace(method, settings={} if method.name == "ce" else settings) for method in comparison.methods]
    (told,) = (line for line in caption(replace(comparison, methods=tuple(methods))) if line.startswith("Chosen"))
    assert told == f"Chosen for mine, sp, {LEARNED}: training.optimizer.lr 0.01235, training.batch_size 16, 1 weights of lambda."
