"""The descriptions: what they say, and that no name in them is read as Markdown."""

from collections.abc import Sequence
from dataclasses import replace

from kd_hpo.config.task import Classification
from kd_hpo.study.results.standing import Learned
from kd_hpo.study.store.folder import TrialSpec, TrialStatus
from kd_hpo.study.tracking.descriptions import (
    Ranking,
    experiment_note,
    running_note,
    running_trial_note,
    strongest,
    trial_note,
)
from kd_hpo.study.tracking.descriptions import _matrix as matrix_table
from kd_hpo.trial.result import LayerRecord
from tests.study.helpers import record

TILTED = ((0.5, 0.1), (0.1, 0.1), (0.1, 0.1))
LAYERS = (("conv1", "conv2", "fc"), ("conv1", "fc"))


def status(trial: str, kind: str = "search", **settings: object) -> TrialStatus:
    spec = {"id": trial, "kind": kind, "method": trial.split("-")[0], "seed": 0, "settings": settings}
    return TrialStatus(spec=TrialSpec.model_validate(spec), state="completed")


def ranking(*ranked: tuple[TrialStatus, float], weights: tuple[tuple[float, ...], ...] = TILTED) -> Ranking:
    return Ranking(
        study="digits",
        ranked=tuple((each, record(3, accuracy, weights)) for each, accuracy in ranked),
        run_ids={each.spec.id: f"run-{each.spec.id}" for each, _ in ranked},
        counts={"completed": len(ranked), "running": 1, "stopped": 0, "failed": 0},
        goal=Classification.goal,
    )


def learned(teacher: Sequence[str], student: Sequence[str], matrix: Sequence[Sequence[float]]) -> Learned:
    rows = tuple(tuple(row) for row in matrix)
    layers = [tuple(LayerRecord(name=name, shape=(1, 1, 1)) for name in names) for names in (teacher, student)]
    return Learned("hetero", ("hetero-s0",), True, *layers, rows, rows, rows, (1,), (rows,))


def test_a_search_by_agreement_is_told_as_one() -> None:
    told = ranking((status("hetero-t001"), 0.7))
    (first,) = ((each, last.replace(metrics=last.metrics | {"unlabelled/agreement": 0.125})) for each, last in told.ranked)
    note = experiment_note(replace(told, ranked=(first,), goal=replace(Classification.agreement, split="unlabelled")), "7", "s")
    assert "unlabelled/agreement 0.1250" in note.split("\n\n")[0]
    assert "it has the lowest KL to the teacher on `unlabelled` after its last epoch, 0.1250" in note


def test_experiment_names_the_best_and_leads_on_in_its_first_line() -> None:
    best, other = status("hetero-t001", **{"kd.weight": 1.23456}), status("hetero-t000")
    compared = (status("kd-s0", "compare"), 0.5)
    note = experiment_note(ranking((best, 0.7), (other, 0.6), compared), "7", "run-summary")
    first, *rest = note.split("\n\n")
    assert first.startswith("**Best: [hetero-t001](#/experiments/7/runs/run-hetero-t001?")
    for words in (
        "val/accuracy 0.7000",
        "[its matrix]",
        "[best first]",
        "[summary]",
    ):
        assert words in first
    assert "of the 3 completed trials it has" in rest[0] and "hetero-t000" in rest[0] and "0.6000" in rest[0]
    assert rest[1] == "Its outer settings: `kd.weight` 1.235."
    assert rest[2] == "Trials of study digits: 3 completed, 1 running."


def test_best_trial_without_pairs_has_no_matrix_to_lead_to() -> None:
    note = experiment_note(ranking((status("kd-s0", "compare"), 0.7), weights=()), "7", "s")
    assert "its matrix" not in note


def test_best_is_told_by_what_the_search_goes_by() -> None:
    ranked = ranking((status("hetero-t001"), 0.6), (status("hetero-t000"), 0.7))  # of losses 0.4 and 0.3
    note = experiment_note(replace(ranked, goal=Classification.loss), "7", "s")
    assert "val/loss 0.4000" in note and "the lowest cross-entropy on `val`" in note and "0.3000" in note


def test_study_without_a_completed_trial_says_so() -> None:
    assert experiment_note(ranking(), "7", "s").startswith("**No trial has been completed yet** · [best first]")
    assert running_note(ranking(), "7") == "**The study has not come to its end.**\n\nTrials of study digits: 1 running."


def test_trial_says_how_it_ended_and_what_it_holds() -> None:
    failed = TrialStatus(spec=status("hetero-t000").spec, state="failed", message="loss is not finite\n`x`")
    note = trial_note(
        failed, [record(1, 0.4, TILTED), record(2, 0.6, TILTED), record(3, 0.5, TILTED)], "7", "r", LAYERS, Classification.goal
    )
    assert note.startswith("**hetero**, seed 0: failed loss is not finite \\`x\\`")
    assert "0.5000 after epoch 3, at best 0.6000 after epoch 2" in note
    assert "/runs/r/artifacts/lambda.html?" in note and "`conv1` → `conv1` 0.500" in note
    assert "matrix" not in trial_note(failed, [record(1, 0.4, ())], "7", "r", LAYERS, Classification.goal)


def test_trial_that_runs_leads_to_its_matrix_so_far() -> None:
    spec = status("hetero-t000", **{"kd.weight": 1.0}).spec
    note = running_trial_note(spec, "7", "r", pairs=True)
    assert note.startswith("**hetero**, seed 0: running\n\n[The matrix so far](#/experiments/7/runs/r/model-metrics?")
    assert note.endswith("Its outer settings: `kd.weight` 1.")
    assert "matrix" not in running_trial_note(spec, "7", "r", pairs=False)


def test_large_matrix_is_told_by_its_strongest_pairs() -> None:
    small = learned(*LAYERS, TILTED)
    assert matrix_table(small).splitlines()[2] == "| `conv1` | 0.500 | 0.100 |"
    names = [f"l{i}" for i in range(11)]
    large = learned(names, names, [[1 / 121] * 11] * 11)
    assert "|" not in matrix_table(large) and matrix_table(large).count("→") == 10
    assert strongest(TILTED, *LAYERS, most=1) == "`conv1` → `conv1` 0.500"
