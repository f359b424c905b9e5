"""The numbers that are printed, against the saved weights and the raw images worked out by hand."""

import ast
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

import kd_hpo
from kd_hpo.config.study import StudyConfig
from kd_hpo.study.report.summary import render
from kd_hpo.study.results.comparison import compared
from kd_hpo.study.results.final_scores import open_test_split, score_on_test, shared_scores, student_on_test
from kd_hpo.study.run.worker import execute
from kd_hpo.study.store.folder import State, StudyFolder, TestScores, TrialSpec, TrialStatus
from kd_hpo.trial.loop import BEST_WEIGHTS, LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from tests.conftest import digits_study
from tests.study.by_hand import accuracy_by_hand

SPLITS = {"train": 240, "outer": 120, "val": 113, "test": 211}
"""With primes, no share of the images of `test` is one of another split: whatever else is scored gives another number."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> StudyConfig:
    """A study with a trial of its comparison, whose best weights are made to answer otherwise than its last ones."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / "cache").symlink_to(cache)
    training = {"epochs": 8, "batch_size": 16, "optimizer": {"kind": "sgd", "lr": 0.1}}
    study = digits_study(runs, splits=SPLITS, training=training, search={"trials": 0}, compare={"methods": ["ce"], "seeds": 1})
    folder = StudyFolder.of(study)
    folder.write_settings(study)
    spec = TrialSpec(id="ce-s0", kind="compare", method="ce", seed=0)
    execute({"spec": spec.model_dump(mode="json")}, study_json=study.model_dump_json(), report=lambda _: None)
    weights = load_file(folder.trial("ce-s0") / LAST_WEIGHTS)
    weights |= {name: weights[name].roll(1, 0).contiguous() for name in ("logits.weight", "logits.bias")}
    save_file(weights, folder.trial("ce-s0") / BEST_WEIGHTS)
    return study


@pytest.fixture(scope="module")
def prepared(trained: StudyConfig, cache: Path) -> Prepared:
    return prepare(trained.trial(), cache)


def by_hand(study: StudyConfig, prepared: Prepared, split: str, weights: str) -> float:
    file = StudyFolder.of(study).trial("ce-s0") / weights
    return accuracy_by_hand(file, getattr(prepared.splits, split), prepared.splits.train)


def test_the_epochs_can_be_told_apart(trained: StudyConfig, prepared: Prepared) -> None:
    """Else the tests below would pass whichever weights are scored."""
    last, best = (by_hand(trained, prepared, "test", weights) for weights in (LAST_WEIGHTS, BEST_WEIGHTS))
    assert 0 < best < 0.5 * last < 0.5, (best, last)


def test_a_student_is_scored_on_test_with_its_last_and_its_best_weights(trained: StudyConfig, prepared: Prepared) -> None:
    scores = student_on_test(trained.trial(), StudyFolder.of(trained).trial("ce-s0"), prepared)
    assert scores.last == by_hand(trained, prepared, "test", LAST_WEIGHTS)
    assert scores.best == by_hand(trained, prepared, "test", BEST_WEIGHTS)


def test_the_teacher_is_scored_on_test(prepared: Prepared) -> None:
    assert prepared.teacher.weights is not None
    on = prepared.splits
    test, val = (accuracy_by_hand(prepared.teacher.weights, images, on.train) for images in (on.test, on.val))
    assert 0 < test < 1
    assert (score_on_test(prepared.teacher.network, prepared), prepared.teacher.val.value) == (test, val)


def test_what_is_printed_is_what_the_saved_weights_reach_on_test(trained: StudyConfig, prepared: Prepared) -> None:
    folder = StudyFolder.of(trained)
    open_test_split(trained, folder, prepared, lambda _: None)
    last, best = (by_hand(trained, prepared, "test", weights) for weights in (LAST_WEIGHTS, BEST_WEIGHTS))
    assert folder.test_scores("ce-s0") == TestScores(last=last, best=best)
    comparison = compared(trained, folder, shared_scores(prepared), {})
    (row,) = comparison.frame().to_dict("records")
    assert prepared.teacher.weights is not None
    taught = accuracy_by_hand(prepared.teacher.weights, prepared.splits.test, prepared.splits.train)
    assert (row["test"], row["test_best"]) == (last, best)
    assert row["val"] == by_hand(trained, prepared, "val", LAST_WEIGHTS)
    assert comparison.teacher["test"] == taught
    file = StringIO()
    Console(file=file, width=160, color_system=None).print(render(comparison, None, 160))
    (printed,) = (line.split() for line in file.getvalue().splitlines() if line.startswith("student alone"))
    assert printed[3:5] == [f"{last:.4f}", f"{best:.4f}"]
    assert f"test {taught:.4f}." in file.getvalue()


def test_the_test_split_is_opened_once(trained: StudyConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = StudyFolder.of(trained), list[str]()
    open_test_split(trained, folder, prepared, told.append)
    before = folder.test_scores("ce-s0")
    monkeypatch.setattr("kd_hpo.study.results.final_scores.score", lambda *_: pytest.fail("opened again"))
    open_test_split(trained, folder, prepared, told.append)
    assert folder.test_scores("ce-s0") == before and len(told) <= 1


def test_trials_that_search_or_have_not_completed_are_not_scored(tmp_path: Path, prepared: Prepared) -> None:
    study = digits_study(tmp_path)
    folder = StudyFolder.of(study)
    ended: tuple[tuple[Literal["search", "compare"], State], ...] = (
        ("search", "completed"),
        ("compare", "failed"),
        ("compare", "running"),
    )
    for kind, state in ended:
        spec = TrialSpec(id=f"kd-{kind}-{state}", kind=kind, method="kd", seed=0)
        folder.write_status(TrialStatus(spec=spec, state=state))
    open_test_split(study, folder, prepared, lambda _: pytest.fail("opened the test split"))
    assert not list(folder.root.rglob("test.json"))


def test_nothing_else_reads_the_test_split() -> None:
    """`splits.test` stands in one module, and nobody asks the splits for a name that could be it."""
    readers, root = set(), Path(kd_hpo.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "test" and named(node.value) == "splits":
                readers.add(str(path.relative_to(root)))
            if isinstance(node, ast.Call) and named(node.func) == "getattr" and named(node.args[0]) == "splits":
                assert path.name == "load.py", f"{path}:{node.lineno} reads a split by its name"  # the sizes that are asked for
    assert readers == {"study/results/final_scores.py"}


def named(node: ast.expr) -> str:
    """splits of `splits` and of `prepared.splits`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def test_the_pixels_by_hand_are_those_of_the_images(prepared: Prepared) -> None:
    """Of the independent computation: brought to mean 0 and deviation 1, it sees what the networks see."""
    from sklearn.datasets import load_digits

    train = prepared.splits.train
    pixels = np.rint(load_digits().images * 255 / 16)
    x = (pixels - pixels[train].mean()) / pixels[train].std()
    np.testing.assert_allclose(prepared.batches.inputs(train[:5])[:, 0].numpy(), x[train[:5]], atol=1e-5)
