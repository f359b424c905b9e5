"""A whole trial: it learns, it resumes to the same bits, it leaves nothing moved, it fails with words."""

import importlib.util
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kd_hpo.config.load import with_settings
from kd_hpo.config.methods import METHODS
from kd_hpo.core.balance import GradientBalance
from kd_hpo.data.batches import ImageBatches, shuffled_batches
from kd_hpo.errors import CheckpointMismatch, ConfigError, DataError, Diverged, FeatureMismatch
from kd_hpo.trial import balancing, pair_term, passes
from kd_hpo.trial.evaluate import Score, score
from kd_hpo.trial.loop import BEST_WEIGHTS, CHECKPOINT, LAST_WEIGHTS
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.passes import needed_pairs
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.problem import PairState, Seen
from kd_hpo.trial.randomness import ORDER
from kd_hpo.trial.result import EpochRecord
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.state import Trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial


class Stop(Exception):
    """Stands for a process that dies."""


OFTEN = {"kind": "learned", "every": 3, "evidence": False}
LATE = {"kind": "learned", "every": 3, "warmup": 0.4, "hold": 0.1, "evidence": False}  # the pairs' balance stands by then
TWO_STAGES = {"stages": {"kind": "pairs_first", "share": 0.5}}  # the second one starts with epoch 3


RECIPE = {
    "epochs": 4, "batch_size": 32, "lr_schedule": {"kind": "cosine", "warmup": 1, "floor": 1e-4}, "decayed": "matrices",
    "optimizer": {"kind": "torch", "name": "RMSprop", "arguments": {"momentum": 0.5}}, "clip_norm": 0.5, "label_smoothing": 0.1,
    "ema": {"decay": 0.9},
}  # fmt: skip
POINTS = {"kind": "points", "points": [[1, 0.5], [3, 1]]}
HALVED = {"kind": "torch", "name": "StepLR", "arguments": {"step_size": 1, "gamma": 0.5}}
RISING = {"kind": "warm_up", "epochs": 0.75}
REMEMBERED = {"loss": {"kind": "crd", "negatives": 16}, "regressor_gradient": "weighted", "schedule": RISING}
timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.mark.parametrize(("weighting", "changes"), [
    ({"kind": "learned", "every": 1, "hold": 0.1}, {}),
    (OFTEN, {}),
    (OFTEN | {"direction": {"kind": "diagonal_fisher"}, "outer_objective": "task_and_pairs"}, {}),
    (LATE | {"direction": {"kind": "unrolled", "steps": 3}, "strength_within": 2.0}, {}),
    (LATE | {"direction": {"kind": "drmad", "steps": 3}, "pairing": "one_to_one", "keep": 1}, {}),
    (LATE | {"direction": {"kind": "hyperdistill"}, "start": [[1, 2], [3, 4], [5, 6]], "forget": 0.2}, {}),
    ({"kind": "attention"}, {}),
    ({"kind": "uniform"}, {"pairs": TWO_STAGES}),
    ({"kind": "uniform"}, {"pairs": TWO_STAGES, "training": {"epochs": 4, "batch_size": 32, "lr_schedule": "cosine"}}),
    (LATE | {"direction": {"kind": "unrolled", "steps": 3}}, {"training": RECIPE}),
    ({"kind": "uniform"}, {"pairs": TWO_STAGES | {"schedule": POINTS}, "training": RECIPE | {"lr_schedule": HALVED}}),
    (LATE, {"training": RECIPE, "augment": [{"name": "RandAugment"}, "flip", {"name": "CutMix"}]}),
    ({"kind": "selected", "pair": "last"}, {"training": RECIPE, "pairs": REMEMBERED, "kd": {"kind": "dkd", "schedule": RISING}}),
    (LATE, {"training": RECIPE, "data": {"kind": "digits", "unlabelled": "extra", "unlabelled_images": 50}}),
    pytest.param({"kind": "uniform"}, {"training": RECIPE | {"optimizer": {"kind": "timm", "name": "lamb"}}}, marks=timm),
])  # fmt: skip
@pytest.mark.parametrize("die_after", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_resumed_trial_ends_bit_identical(
    tmp_path: Path, cache: Path, prepared: Prepared, weighting: dict[str, object], changes: dict[str, object], die_after: int
) -> None:
    config = digits_trial(weighting=weighting, **changes)
    prepared = prepare(config, cache) if "data" in changes else prepared
    whole = run_trial(config, lambda _: None, cache=cache, folder=tmp_path / "whole", prepared=prepared)

    def die(record: EpochRecord) -> None:
        if record.epoch == die_after:
            raise Stop

    with pytest.raises(Stop):
        run_trial(config, die, cache=cache, folder=tmp_path / "cut", prepared=prepared)
    torch.rand(5)  # what happens between does not matter
    told: list[EpochRecord] = []
    resumed = run_trial(config, told.append, cache=cache, folder=tmp_path / "cut", prepared=prepared)
    assert resumed == whole
    assert tuple(told) == whole.records
    assert all(f"{name}/agreement" in whole.last.metrics for name in prepared.opinions)
    for name in (LAST_WEIGHTS, BEST_WEIGHTS):
        ours, theirs = load_file(tmp_path / "cut" / name), load_file(tmp_path / "whole" / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


GENTLE = {
    "at": {"pairs.strength": 10},
    "semckd": {"pairs.strength": 10},
    "dist": {"kd.weight": 0.1},
    "crd": {"pairs.strength": 0.1},
}
"""Strengths for trials of a few steps, of networks with fewer channels than those that the published ones are for."""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_reports(cache: Path, name: str) -> None:
    config = METHODS[name].apply(digits_trial())
    config = with_settings(config, GENTLE.get(name, {}))
    result = run_trial(config, lambda _: None, cache=cache)
    losses = [record.metrics["train/loss"] for record in result.records]
    assert losses[-1] < 0.95 * losses[0]
    if not config.weighting.paired:
        assert result.last.weights == ()
    else:
        assert sum(map(sum, result.held_mean)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["ce", "kd", "takd"])
def test_trial_without_pairs_keeps_the_teachers_logits_alone(tmp_path: Path, name: str) -> None:
    result = run_trial(METHODS[name].apply(digits_trial()), lambda _: None, cache=tmp_path)
    assert {file.name for file in tmp_path.glob("teacher-targets-*/*")} == {"logits.npy", "sample.npy"}
    assert not list(tmp_path.glob("teacher-statistics-*"))
    assert (result.teacher_layers, result.student_layers) == ((), ())


def test_methods_share_the_student_start_and_the_order(cache: Path, prepared: Prepared) -> None:
    """Where the pairs do not act, adding them changes nothing: a paired comparison starts from the same point."""
    kd = run_trial(METHODS["kd"].apply(digits_trial()), lambda _: None, cache=cache, prepared=prepared)
    off = digits_trial(pairs={"balance": {"kind": "gradient", "measures": 10**6}}, weighting={"kind": "uniform"})
    pairs_off = run_trial(off, lambda _: None, cache=cache, prepared=prepared)
    assert pairs_off.last.metrics["val/loss"] == kd.last.metrics["val/loss"]


START = [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("settings", "expected", "alike"),
    [
        ({"warmup": 0.25, "hold": 0.5, "keep": 1}, "6611", 4),
        ({"warmup": 0.5, "hold": 0.25, "opening": 0.25, "keep": 1, "start": START}, "1661", 2),  # then lambda moves
        ({"warmup": 0.5, "hold": 0.25, "opening": 0.25, "start": START}, "6666", 4),  # a start has a share of all others
    ],
)
def test_pairs_without_weight_are_left_out_while_none_of_them_can_get_any(
    cache: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], expected: str, alike: int
) -> None:
    """How many are computed in each quarter of the steps; the student is as it would be with all of them."""
    config = digits_trial(weighting={"kind": "learned", "every": 1, "evidence": False, **settings})
    computed: list[int] = []

    def counted(trial: Trial, pairs: PairState, weighted_only: bool) -> Tensor | None:
        needed = needed_pairs(trial, pairs, weighted_only)
        computed.append(pairs.losses.plan.shape[0] * pairs.losses.plan.shape[1] if needed is None else int(needed.sum()))
        return needed

    monkeypatch.setattr(pair_term, "needed_pairs", counted)
    quick = run_trial(config, lambda _: None, cache=cache, prepared=prepared)
    assert computed == [int(count) for count in expected for _ in range(len(computed) // 4)]
    for module in (passes, pair_term, balancing):
        monkeypatch.setattr(module, "needed_pairs", lambda trial, pairs, weighted_only: None)
    slow = run_trial(config, lambda _: None, cache=cache, prepared=prepared)
    for one, other in zip(quick.records[:alike], slow.records[:alike], strict=True):
        assert one.weights == other.weights
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4, abs=1e-5)


def test_pairs_without_weight_rest_between_where_the_trial_says_so(
    cache: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many are computed at each step: all at every third one, and at every fourth, where lambda moves."""
    settings = {"every": 4, "warmup": 0.0, "hold": 0.0, "keep": 1, "start": START, "opening": 0.0, "idle_every": 3}
    computed: list[int] = []

    def counted(trial: Trial, pairs: PairState, weighted_only: bool) -> Tensor | None:
        needed = needed_pairs(trial, pairs, weighted_only)
        computed.append(6 if needed is None else int(needed.sum()))
        return needed

    monkeypatch.setattr(pair_term, "needed_pairs", counted)
    result = run_trial(digits_trial(weighting={"kind": "learned", **settings}), lambda _: None, cache=cache, prepared=prepared)
    assert computed == [6 if step % 3 == 0 or step % 4 == 0 else 1 for step in range(len(computed))]
    assert all(map(isfinite, result.last.metrics.values()))


def test_weights_start_uniform_are_learned_between_and_held_at_the_end(cache: Path, prepared: Prepared) -> None:
    config = digits_trial(weighting={"kind": "learned", "every": 1, "warmup": 0.25, "hold": 0.5, "evidence": False})
    result = run_trial(config, lambda _: None, cache=cache, prepared=prepared)
    first, second, third, fourth = result.records
    assert {round(weight, 6) for row in first.weights for weight in row} == {round(1 / 6, 6)}
    assert second.weights != first.weights
    assert second.weights == third.weights == fourth.weights
    assert [record.held for record in (first, second, third, fourth)] == [False, False, True, True]
    assert result.held_mean == pytest.approx(np.array(fourth.weights))


@pytest.mark.parametrize("views", [0, 2], ids=["new views", "kept views"])
def test_images_that_workers_read_ahead_are_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int) -> None:
    """Of a teacher and a student that are both trained on random views, to the last bit."""
    plain = digits_trial(augment=("crop",))
    given = plain.replace(teacher=plain.teacher.replace(augment=("crop",), cached_views=views).model_dump())
    shared, pixels = list[bool](), ImageBatches._pixels

    def looked_at(batches: ImageBatches, indices: np.ndarray, images: np.ndarray) -> Tensor:
        found = pixels(batches, indices, images)
        shared.append(found.is_shared())  # it comes from another process
        return found

    monkeypatch.setattr(ImageBatches, "_pixels", looked_at)
    one = run_trial(given, lambda _: None, cache=tmp_path / "one")
    alone = len(shared)
    assert not any(shared)
    other = run_trial(given.replace(workers=2), lambda _: None, cache=tmp_path / "other")
    assert len(shared) == 2 * alone
    assert shared.count(True) > 0.8 * alone  # but for the outer batches of lambda
    assert one.teacher_digest == other.teacher_digest
    assert one.records == other.records


def test_another_seed_is_another_trial(cache: Path, prepared: Prepared) -> None:
    one, two = (run_trial(digits_trial(seed=seed), lambda _: None, cache=cache, prepared=prepared) for seed in (0, 1))
    assert one.last.metrics != two.last.metrics
    assert one.split_digests == two.split_digests


def test_divergence_names_step_and_settings(cache: Path, prepared: Prepared) -> None:
    wild = digits_trial(training={"epochs": 4, "batch_size": 32, "optimizer": {"kind": "sgd", "lr": 1e18}})
    settings = r"training.optimizer.lr 1e\+18, kd.weight 1, pairs.strength 3, pairs.regressor_lr 0.01$"
    with pytest.raises(Diverged, match=r"step \d+ of 28: task \S+, kd \S+, pairs \S+; .*" + settings):
        run_trial(wild, lambda _: None, cache=cache, prepared=prepared)
    alone = METHODS["ce"].apply(wild)
    with pytest.raises(Diverged, match=r" training.optimizer.lr 1e\+18$"):
        run_trial(alone, lambda _: None, cache=cache)


def test_divergence_in_the_last_step_of_an_epoch_is_seen_on_val(
    cache: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_hpo.trial.loop.score", lambda *_: Score(float("nan"), {"accuracy": 0.1}, 0.1))
    with pytest.raises(Diverged, match="step 7 of 28: val nan"):
        run_trial(digits_trial(), lambda _: None, cache=cache, prepared=prepared)


@pytest.mark.parametrize("form", [{}, {"pairing": "one_to_one"}, {"update": "projection", "mix": 0.0, "forget": 0.2}])
def test_a_hypergradient_that_is_not_finite_moves_nothing_and_is_told(
    cache: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, form: dict[str, object]
) -> None:
    monkeypatch.setattr("kd_hpo.trial.learning.hypergradient_along", lambda *_: torch.full((3, 2), float("nan")))
    learned = {"kind": "learned", "every": 2, "warmup": 0.0} | form
    with pytest.raises(Diverged, match=r"step 0 of 28: .*hypergradient.* training.optimizer.lr"):
        run_trial(digits_trial(weighting=learned), lambda _: None, cache=cache, prepared=prepared)


def test_projection_that_forgets_stays_on_the_simplex(cache: Path, prepared: Prepared) -> None:
    learned = {"kind": "learned", "every": 1, "warmup": 0.0, "update": "projection", "step": 0.5, "mix": 0.0, "forget": 0.2}
    learned |= {"evidence": False}
    result = run_trial(digits_trial(weighting=learned), lambda _: None, cache=cache, prepared=prepared)
    assert any(weight == 0 for row in result.last.weights for weight in row)
    assert sum(map(sum, result.last.weights)) == pytest.approx(1)


@pytest.mark.parametrize(("lost", "ends"), [(1, False), (100, True)])
def test_measures_that_are_not_finite_are_passed_over_until_none_is(
    cache: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, lost: int, ends: bool
) -> None:
    """One switches no pair off, and is counted; where none is finite the trial ends with the pair's name."""
    measured, norms = list[int](), balancing.squared_norms

    def some_lost(trial: Trial, seen: Seen, balance: GradientBalance, needed: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        task, pairs, turn = norms(trial, seen, balance, needed)
        measured.append(1)
        pairs[0, 1] *= float("nan") if len(measured) <= lost else 1
        return task, pairs, turn

    monkeypatch.setattr(balancing, "squared_norms", some_lost)
    config = digits_trial(weighting={"kind": "uniform"}, pairs={"balance": {"kind": "gradient", "measures": 2}})
    if ends:
        with pytest.raises(Diverged, match="conv1 -> fc was not finite"):
            run_trial(config, lambda _: None, cache=cache, prepared=prepared)
        return
    result = run_trial(config, lambda _: None, cache=cache, prepared=prepared)
    assert result.records[0].metrics["weights/missed_measures"] == 1
    assert "weights/missed_measures" not in result.records[1].metrics
    assert result.last.scales[0][1] > 0


def test_checkpoint_of_another_configuration_is_refused(tmp_path: Path, cache: Path, prepared: Prepared) -> None:
    run_trial(digits_trial(), lambda _: None, cache=cache, folder=tmp_path, prepared=prepared)
    with pytest.raises(CheckpointMismatch, match="another configuration"):
        run_trial(digits_trial(seed=7), lambda _: None, cache=cache, folder=tmp_path, prepared=prepared)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_broken_checkpoint_is_refused(tmp_path: Path, cache: Path, prepared: Prepared, content: bytes | None) -> None:
    run_trial(digits_trial(), lambda _: None, cache=cache, folder=tmp_path, prepared=prepared)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(CheckpointMismatch, match="not a whole checkpoint"):
        run_trial(digits_trial(), lambda _: None, cache=cache, folder=tmp_path, prepared=prepared)


def test_checkpoint_runs_no_code(tmp_path: Path, cache: Path, prepared: Prepared) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"version": 1, "config": Evil(), "state": {}}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointMismatch):
        run_trial(digits_trial(), lambda _: None, cache=cache, folder=tmp_path, prepared=prepared)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"training": {"epochs": 1, "batch_size": 512}}, DataError, "240 images, .* 512"),
        ({"weighting": {"kind": "one_pair", "teacher": "conv9", "student": "fc"}}, FeatureMismatch, "'conv9'.*conv1, conv2, fc"),
        ({"weighting": {"kind": "fixed", "matrix": [[1, 0], [0, 0]]}}, ConfigError, "2 x 2.*3 rows .* of 2"),
        ({"weighting": {"kind": "fixed", "matrix": [[0, 0]] * 3}}, ConfigError, "sum above 0"),
        ({"weighting": {"kind": "replay", "matrices": [[[1, 2, 3]] * 3]}}, ConfigError, "3 x 3.*3 rows .* of 2"),
    ],
)
def test_settings_that_do_not_fit_are_told(
    cache: Path, prepared: Prepared, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run_trial(digits_trial(**changes), lambda _: None, cache=cache, prepared=prepared)


def test_unknown_layer_names_those_that_exist(cache: Path) -> None:
    student = digits_trial().student.replace(layers=("conv1", "convv2"))
    with pytest.raises(FeatureMismatch, match=r"'convv2'.* 'conv2'.* conv1.*logits"):
        run_trial(digits_trial(student=student.model_dump()), lambda _: None, cache=cache)


def test_the_average_is_what_is_scored_and_written(tmp_path: Path, cache: Path, prepared: Prepared) -> None:
    """By hand: the weights after every step of a trial without an average, averaged."""
    config = digits_trial(weighting={"kind": "none"})
    averaged = with_settings(config, {"training.ema": {"decay": 0.9, "warmup": False}})
    plain = run_trial(config, lambda _: None, cache=cache, folder=tmp_path / "plain", prepared=prepared)
    result = run_trial(averaged, lambda _: None, cache=cache, folder=tmp_path / "average", prepared=prepared)
    trial = start_trial(config, prepared)
    network = trial.student.network
    average = {name: value.clone() for name, value in network.state_dict().items()}
    while trial.epoch < config.training.epochs:
        for batch in shuffled_batches(prepared.splits.train, 32, config.seed, ORDER, trial.epoch):
            train_step(trial, batch)
            for name, value in network.state_dict().items():
                average[name] = 0.9 * average[name] + 0.1 * value if value.is_floating_point() else value
        trial.epoch += 1
    written = load_file(tmp_path / "average" / LAST_WEIGHTS)
    for name, value in written.items():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)
    network.load_state_dict(written)
    assert result.last.metrics["val/loss"] == score(network, prepared.task, prepared.batches, prepared.splits.val).loss
    assert result.last.metrics["train/loss"] == plain.last.metrics["train/loss"]  # it goes on from its own weights
    assert result.last.metrics["val/loss"] != plain.last.metrics["val/loss"]
    trial.student.close()
