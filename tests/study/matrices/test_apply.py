"""Students of an exported matrix: which form is chosen, on what each is trained, and when test is opened."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from kd_hpo.errors import Diverged
from kd_hpo.study.matrices.apply import APPLIED, Applied, apply, best_on_val
from kd_hpo.study.matrices.forms import FORMS, Form, configs_of
from kd_hpo.study.results.final_scores import student_on_test
from kd_hpo.study.store.export_file import load_export
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.result import RESULT, EpochRecord, TrialResult
from kd_hpo.trial.run import run_trial
from tests.study.helpers import record, result_of

SHORT = ["training.epochs=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path, exported: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "cache").symlink_to(cache)
    (folder / "lambda.json").write_bytes(exported.read_bytes())
    return folder


@pytest.fixture(scope="module")
def told() -> list[tuple[Form, EpochRecord]]:
    return []


@pytest.fixture(scope="module")
def applied(runs: Path, told: list[tuple[Form, EpochRecord]]) -> Applied:
    return apply(runs / "lambda.json", runs=runs, overrides=SHORT, report=lambda form, record: told.append((form, record)))


def test_each_form_is_the_trial_of_its_configuration(
    applied: Applied, runs: Path, cache: Path, prepared: Prepared, told: list[tuple[Form, EpochRecord]]
) -> None:
    """Run by hand: held and replayed on train and outer together, learned on train, since lambda needs outer for itself."""
    entry = load_export(runs / "lambda.json").matrices[0]
    together = prepare(entry.config, cache, outer_trains=True)
    for form, config in configs_of(entry, SHORT).items():
        by_hand = run_trial(config, lambda _: None, cache=cache, prepared=prepared if form == "learned" else together)
        assert applied.forms[form] == by_hand
    assert [(form, record.epoch) for form, record in told] == [(form, 1) for form in FORMS]


def test_splits_that_are_recorded_are_those_that_trained(applied: Applied, prepared: Prepared) -> None:
    """train and outer are one: the digest is that of their images, and outer has none."""
    together = np.sort(np.concatenate([prepared.splits.train, prepared.splits.outer]))
    expected = {"train": hashlib.sha256(together.astype("<i8").tobytes()).hexdigest()[:16]}
    expected["outer"] = hashlib.sha256(b"").hexdigest()[:16]
    held, learned = applied.forms["held"], applied.forms["learned"]
    assert isinstance(held, TrialResult) and held.split_digests == {**prepared.splits.digests, **expected}
    assert isinstance(learned, TrialResult) and learned.split_digests == dict(prepared.splits.digests)


def test_the_chosen_student_is_the_best_on_val_and_its_weights_are_kept(applied: Applied, runs: Path) -> None:
    vals = {form: (each.last.metrics["val/accuracy"], -each.last.metrics["val/loss"]) for form, each in results(applied).items()}
    assert applied.form == max(vals, key=lambda form: vals[form])
    folder = runs / "applied" / "small-1"
    assert applied.weights == folder / "last.safetensors"
    kept, trained = (load_file(path / "last.safetensors") for path in (folder, folder / applied.form))
    assert all(bool((kept[name] == trained[name]).all()) for name in kept) and kept.keys() == trained.keys()
    assert TrialResult.model_validate_json((folder / RESULT).read_bytes()) == applied.result
    document = json.loads((folder / APPLIED).read_text())
    assert document == json.loads(json.dumps(applied.document()))
    assert {form: each["last"]["val"] for form, each in document["forms"].items()} == {f: v[0] for f, v in vals.items()}


def test_a_student_without_pairs_is_tried_where_that_was_the_answer(runs: Path, cache: Path) -> None:
    """On train and outer together, as one with held weights."""
    content = json.loads((runs / "lambda.json").read_text())
    of_arm = {"learns": False, "seeds": 2, "ahead": -0.1, "error": 0.01, "learning": "learned", "control": "kd"}
    (runs / "alone.json").write_text(json.dumps(content | {"answer": {"arm": "kd", **of_arm}}))
    (runs / "held.json").write_text(json.dumps(content | {"answer": {"arm": "uniform", **of_arm, "control": "uniform"}}))
    tried = apply(runs / "alone.json", runs=runs, overrides=SHORT, folder=runs / "alone").forms
    assert tuple(tried) == (*FORMS, "without")
    config = configs_of(load_export(runs / "lambda.json").matrices[0], SHORT, "without")["without"]
    assert tried["without"] == run_trial(config, lambda _: None, cache=cache, prepared=prepare(config, cache, outer_trains=True))
    assert "without" not in apply(runs / "held.json", runs=runs, overrides=SHORT, folder=runs / "held").forms


def results(applied: Applied) -> dict[Form, TrialResult]:
    return {form: each for form, each in applied.forms.items() if isinstance(each, TrialResult)}


def test_test_is_opened_where_it_is_asked_for_and_counted(applied: Applied, runs: Path, prepared: Prepared) -> None:
    assert (applied.test, applied.openings.count, load_export(runs / "lambda.json").test_opened) == (None, 0, 0)
    for count in (1, 2):
        again = apply(runs / "lambda.json", runs=runs, overrides=SHORT, test=True)
        assert (again.form, again.forms) == (applied.form, applied.forms)
        assert again.openings.count == load_export(runs / "lambda.json").test_opened == count
    config = configs_of(load_export(runs / "lambda.json").matrices[0], SHORT)[again.form]
    assert again.test == student_on_test(config, runs / "applied" / "small-1" / again.form, prepared)


def test_a_form_that_is_named_is_trained_alone(applied: Applied, runs: Path, tmp_path: Path) -> None:
    named = apply(runs / "lambda.json", form="replayed", runs=runs, folder=tmp_path, overrides=SHORT)
    assert (named.form, dict(named.forms)) == ("replayed", {"replayed": applied.forms["replayed"]})
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["replayed"]


def test_the_first_of_equals_is_taken_and_the_loss_tells_them_apart_before() -> None:
    good, sure = record(1, 0.5), record(1, 0.5)
    sure = sure.replace(metrics=sure.metrics | {"val/loss": 0.25})
    results = {"held": result_of([good]), "replayed": result_of([good]), "learned": result_of([record(1, 0.25)])}
    assert best_on_val(results) == "held"  # type: ignore[arg-type]
    assert best_on_val(results | {"replayed": result_of([sure])}) == "replayed"  # type: ignore[arg-type]
    assert best_on_val(results | {"held": "the loss is not finite"}) == "replayed"  # type: ignore[arg-type]
    with pytest.raises(Diverged, match="held: the loss is not finite"):
        best_on_val({"held": "the loss is not finite"})
