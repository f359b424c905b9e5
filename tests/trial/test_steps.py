"""The step of a trial: its hypergradient is exact, it moves nothing that it should not, and it finds planted knowledge."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from kd_hpo.config.trial import Network, Student, TrialConfig
from kd_hpo.config.weightings import LearnedWeights
from kd_hpo.core.directions import DIRECTIONS, InnerStep
from kd_hpo.core.learned import Learned
from kd_hpo.core.logit_losses import categorical_kl
from kd_hpo.core.params import Params
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.data.batches import ImageBatches, Indices, drawn_batch, shuffled_batches
from kd_hpo.data.teacher_targets import CachedTargets
from kd_hpo.errors import ConfigError
from kd_hpo.trial.inner import inner_step
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.passes import buffers_of
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.randomness import HESSIAN, OUTER
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.state import Trial
from kd_hpo.trial.steps import inner_gradients, train_step
from tests.conftest import digits_trial


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def captured_hypergradient(trial: Trial, batches: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What the last `train_step` gives the weighting to learn from."""
    told: list[torch.Tensor] = []
    monkeypatch.setattr(Learned, "learn", lambda self, h, direct=None: told.append(h if direct is None else h + direct))
    for batch in batches:
        told.clear()
        train_step(trial, batch)
    return told[0]


def hypergradients(
    config: TrialConfig, cache: Path, state: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The hypergradient that step 4 learns from, and d L_out(w'(lambda)) / d lambda by central differences of the real steps:
    every lambda_ts moved, the last so many steps taken again."""
    prepared = prepare(config, cache)
    batches = list(shuffled_batches(prepared.splits.train, 32, 0))[:5]
    last = batches[5 - steps :]
    trial = start_trial(config, prepared)
    monkeypatch.setattr(Learned, "learn", lambda self, h, direct=None: None)  # lambda stays uniform
    for batch in batches[: 5 - steps]:
        train_step(trial, batch)  # the optimiser's state and the balance are not trivial any more
    torch.save(trial.state_dict(), state)

    def again() -> Trial:
        fresh = start_trial(config, prepared)
        fresh.load_state_dict(torch.load(state))
        return fresh

    def outer_loss(weights: torch.Tensor) -> float:
        trial = again()
        assert trial.pairs is not None
        monkeypatch.setattr(Learned, "learn", lambda self, h, direct=None: None)
        monkeypatch.setattr(Learned, "weights", lambda self, epoch, features=None: weights)
        phi = {name: p.detach().clone() for name, p in trial.pairs.losses.named_parameters()}
        for batch in last:
            train_step(trial, batch)
        outer = drawn_batch(prepared.splits.outer, 256, config.seed, OUTER, trial.step - 1)
        parts = np.array_split(outer, -(-len(outer) // 32))  # of a training batch at most
        return sum(len(part) / len(outer) * loss_of(trial, part, weights, phi) for part in parts)

    def loss_of(trial: Trial, outer: Indices, weights: torch.Tensor, phi: Params) -> float:
        assert trial.pairs is not None
        assert isinstance(config.weighting, LearnedWeights)
        x, buffers = prepared.batches.inputs(outer), {name: b.clone() for name, b in before_buffers.items()}
        logits, features = functional_call(trial.student, buffers, (x,))
        loss = F.cross_entropy(logits, prepared.batches.labels(outer))
        if config.weighting.outer_objective == "task_and_pairs":
            matrix = functional_call(trial.pairs.losses, phi, (features, prepared.targets.batch(outer, x, prepared.plan.sizes)))
            loss = loss + (weights * matrix).sum()
        if config.weighting.outer_objective == "task_and_teacher":
            p, q = (F.softmax(z / config.kd.temperature, 1) for z in (prepared.targets.logits(outer, x), logits))
            loss = loss + config.kd.temperature**2 * (p * (p / q).log()).sum(1).mean()
        return loss.item()

    trial = again()
    before_buffers = buffers_of(trial)
    exact = captured_hypergradient(trial, last, monkeypatch)
    monkeypatch.undo()
    uniform = torch.full(prepared.plan.shape, 1 / np.prod(prepared.plan.shape))
    epsilon, measured = 1e-6, torch.zeros_like(uniform)
    assert (exact.abs() > 1e-4 * exact.abs().max()).all()  # every pair says something
    for t in range(uniform.shape[0]):
        for s in range(uniform.shape[1]):
            moved = torch.zeros_like(uniform)
            moved[t, s] = epsilon
            measured[t, s] = (outer_loss(uniform + moved) - outer_loss(uniform - moved)) / (2 * epsilon)
    return exact, measured


BALANCED = {"kind": "gradient", "measures": 1}  # from the first step on


def learned(**settings: object) -> dict[str, object]:
    return {"kind": "learned", "every": 4, "warmup": 0.0, "hold": 0.0} | settings


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("objective", ["task", "task_and_teacher", "task_and_pairs"])
@pytest.mark.parametrize("optimizer", [
    {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-3},
    {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    {"kind": "adam", "lr": 1e-2, "weight_decay": 1e-3},
    {"kind": "adamw", "lr": 1e-2, "weight_decay": 1e-2},
])  # fmt: skip
def test_one_step_learns_from_the_exact_hypergradient(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, optimizer: dict[str, object], objective: str
) -> None:
    training = {"epochs": 1, "batch_size": 32, "optimizer": optimizer, "lr_schedule": "constant"}
    weighting = learned(direction={"kind": "one_step"}, outer_objective=objective)
    config = digits_trial(
        weighting=weighting, training=training, pairs={"strength": 2.0, "balance": BALANCED, "logits": "inside"}
    )
    exact, measured = hypergradients(config, cache, tmp_path / "state", monkeypatch)
    torch.testing.assert_close(exact, measured, rtol=1e-5, atol=1e-9)


SMOOTH = {"label_smoothing": 0.2, "clip_norm": 0.05, "decayed": "matrices", "lr_schedule": {"kind": "cosine", "warmup": 0.5}}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("direction", "steps"), [({"kind": "one_step"}, 1), ({"kind": "unrolled", "steps": 3}, 3)])
@pytest.mark.parametrize("optimizer", [
    {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    {"kind": "torch", "name": "RMSprop", "lr": 1e-2, "weight_decay": 1e-2, "arguments": {"momentum": 0.5}},
])  # fmt: skip
def test_the_hypergradient_is_exact_through_a_whole_recipe(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: dict[str, object],
    direction: dict[str, object],
    steps: int,
) -> None:
    """Clipping, smoothed labels, decay of matrices alone, a warm-up, a stochastic network, and weights that follow the epochs.

    The gradients' norms are well above where they are cut.
    """
    ramp = {"schedule": {"kind": "warm_up", "epochs": 3}}
    config = digits_trial(
        weighting=learned(direction=direction),
        student=Student(network=Network(name="tests.trial.own:with_stochastic_depth"), layers=("conv1", "fc")),
        training={"epochs": 1, "batch_size": 32, "optimizer": optimizer, **SMOOTH},
        pairs={"strength": 2.0, "regressor_lr": 1e-30, "balance": BALANCED | {"every": 10**6}, **ramp},
        kd=ramp,
    )
    exact, measured = hypergradients(config, cache, tmp_path / "state", monkeypatch, steps)
    torch.testing.assert_close(exact, measured, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["one_step", "unrolled", "drmad", "hyperdistill"])
def test_a_direction_that_cannot_go_back_through_the_optimiser_is_refused(cache: Path, prepared: Prepared, kind: str) -> None:
    training = {"epochs": 1, "batch_size": 32, "optimizer": {"kind": "torch", "name": "Rprop"}}
    weighting, batch = learned(direction={"kind": kind}, every=1), prepared.splits.train[:32]
    with pytest.raises(ConfigError, match=r"Rprop.*gradient_flow"):
        train_step(start_trial(digits_trial(weighting=weighting, training=training), prepared), batch)
    train_step(start_trial(digits_trial(weighting=learned(every=1), training=training), prepared), batch)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("objective", ["task", "task_and_teacher", "task_and_pairs"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_hypergradient_is_exact_where_pairs_see_half_of_each_batch(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, objective: str
) -> None:
    training = {"epochs": 1, "batch_size": 32, "optimizer": {"kind": kind}, "lr_schedule": "constant"}
    weighting = learned(direction={"kind": "one_step"}, outer_objective=objective)
    pairs = {"balance": {"kind": "none"}, "logits": "inside", "batch_share": 0.5}
    exact, measured = hypergradients(
        digits_trial(weighting=weighting, training=training, pairs=pairs), cache, tmp_path / "state", monkeypatch
    )
    torch.testing.assert_close(exact, measured, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("direction", [
    {"kind": "unrolled", "steps": 2},
    {"kind": "unrolled", "steps": 4},
    {"kind": "drmad", "steps": 2},
])  # fmt: skip
def test_several_steps_back_are_exact_too(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, direction: dict[str, object]
) -> None:
    """Through momentum, batch norm and a schedule, for regressors and scales that stand still."""
    optimizer = {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    still = {"regressor_lr": 1e-30, "balance": BALANCED | {"every": 10**6}}
    config = digits_trial(
        weighting=learned(direction=direction, outer_objective="task_and_teacher"),
        training={"epochs": 1, "batch_size": 32, "optimizer": optimizer},
        pairs={"strength": 2.0} | still,
    )
    exact, measured = hypergradients(config, cache, tmp_path / "state", monkeypatch, int(direction["steps"]))  # type: ignore[call-overload]
    torch.testing.assert_close(exact, measured, rtol=1e-5, atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("objective", ["task", "task_and_teacher"])
def test_gradient_flow_learns_from_the_limit_of_small_steps(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """Of plain SGD, per unit of lr: the difference to a step of lr 1e-6 is of the order of lr times the curvature."""
    lr = 1e-6
    optimizer = {"kind": "sgd", "lr": lr, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    training = {"epochs": 1, "batch_size": 32, "optimizer": optimizer, "lr_schedule": "constant"}
    weighting = learned(direction={"kind": "gradient_flow"}, outer_objective=objective)
    config = digits_trial(weighting=weighting, training=training, pairs={"strength": 2.0, "balance": BALANCED})
    exact, measured = hypergradients(config, cache, tmp_path / "state", monkeypatch)
    torch.testing.assert_close(exact, measured / lr, rtol=0.02, atol=0.02 * float(exact.abs().max()))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("targets", ["teacher", "shuffled"])
@pytest.mark.parametrize("number", [0, 3], ids=["own_batch", "fresh_batch"])
def test_the_inner_hessian_is_the_slope_of_the_gradient_that_a_step_takes(cache: Path, number: int, targets: str) -> None:
    config = digits_trial(
        weighting=learned(mix=0.0),
        pairs={"strength": 2.0, "balance": BALANCED, "targets": targets},
        training={"epochs": 1, "batch_size": 32},
    )
    trial = start_trial(config, prepare(config, cache))
    batches = list(shuffled_batches(trial.prepared.splits.train, 32, 0))
    for batch in batches[:6]:
        train_step(trial, batch)
    assert trial.pairs is not None
    generator = torch.Generator().manual_seed(0)
    v = {name: torch.randn(p.shape, generator=generator) for name, p in trial.parameters.items()}
    batch = drawn_batch(trial.prepared.splits.train, 32, config.seed, HESSIAN, trial.step, number) if number else batches[6]
    due = trial.schedule.at(trial.step)
    own = trial.see(batches[6], due, remembers=True)
    step = inner_step(trial, own, due)
    product = step.hessian(step.w, v, number)

    def gradient(moved: float) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for name, p in trial.parameters.items():
                p += moved * v[name]
        inner_gradients(trial, trial.see(batch, due, remembers=False), due)
        with torch.no_grad():
            for name, p in trial.parameters.items():
                p -= moved * v[name]
        return {name: p.grad.clone() for name, p in trial.parameters.items() if p.grad is not None}

    epsilon = 1e-6
    ahead, behind = gradient(epsilon), gradient(-epsilon)
    largest = max(float(hv.abs().max()) for hv in product.values())  # a bias before batch norm has none
    for name, hv in product.items():
        expected = (ahead[name] - behind[name]) / (2 * epsilon)
        torch.testing.assert_close(hv, expected, rtol=1e-4, atol=1e-5 * float(hv.abs().max()) + 1e-7 * largest)


def test_learning_moves_no_buffer_and_no_random_number(cache: Path, prepared: Prepared) -> None:
    """The student trains to the same bits whether lambda is looked at every step or never, as long as lambda stands still."""

    def trained(every: int) -> Trial:
        weighting = {"kind": "learned", "every": every, "warmup": 0.0, "hold": 0.0, "mix": 1.0}  # mixed back to uniform
        trial = start_trial(digits_trial(weighting=weighting), prepared)
        for batch in shuffled_batches(prepared.splits.train, 32, 0):
            train_step(trial, batch)
        return trial

    often, never = trained(1), trained(10**6)
    assert often.pairs is not None
    assert never.pairs is not None
    torch.testing.assert_close(often.pairs.weighting.weights(0), never.pairs.weighting.weights(0))
    for name, value in never.student.state_dict().items():
        torch.testing.assert_close(often.student.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_student_with_frozen_parameters_learns_with_the_others(prepared: Prepared, direction: str) -> None:
    weighting = learned(every=1, direction={"kind": direction}, evidence=False)
    trial = start_trial(digits_trial(weighting=weighting, pairs={"balance": BALANCED}), prepared)
    first, *_ = trial.student.parameters()
    first.requires_grad_(False)
    kept = first.detach().clone()
    for batch in list(shuffled_batches(prepared.splits.train, 32, 0))[:7]:
        train_step(trial, batch)
    assert trial.pairs is not None
    assert torch.equal(first, kept)
    weights = trial.pairs.weighting.weights(0)
    assert weights.isfinite().all()
    assert weights.std() > 1e-4


def test_drmad_lets_go_of_the_students_between(prepared: Prepared) -> None:
    weighting = learned(direction={"kind": "drmad", "steps": 3})
    trial = start_trial(digits_trial(weighting=weighting, pairs={"balance": BALANCED}), prepared)
    assert trial.pairs is not None
    assert trial.pairs.direction is not None
    held: list[weakref.ref[torch.Tensor]] = []
    record = trial.pairs.direction.record

    def watched(step: InnerStep) -> None:
        held.append(weakref.ref(next(iter(step.w.values()))))
        record(step)

    trial.pairs.direction.record = watched  # type: ignore[method-assign]
    first, *others = list(shuffled_batches(prepared.splits.train, 32, 0))[:4]
    train_step(trial, first)
    held.clear()
    for batch in others:  # of which two are seen; the update follows with the next one
        train_step(trial, batch)
    gc.collect()
    assert [ref() is not None for ref in held] == [True, False]


def test_teacher_is_frozen(prepared: Prepared) -> None:
    assert not prepared.teacher.network.training
    assert not any(p.requires_grad for p in prepared.teacher.network.parameters())


def test_kd_gradient_is_weighted_by_kappa(cache: Path, prepared: Prepared) -> None:
    config = digits_trial(kd={"weight": 2.5, "temperature": 3.0}, weighting={"kind": "none"})
    trial = start_trial(config, prepared)
    batch = next(iter(shuffled_batches(prepared.splits.train, 32, 0)))
    x, y = prepared.batches.inputs(batch), prepared.batches.labels(batch)
    logits, _ = functional_call(trial.student, buffers_of(trial), (x,))
    loss = F.cross_entropy(logits, y) + 2.5 * categorical_kl(logits, prepared.targets.logits(batch, x), 3.0).mean()
    expected = torch.autograd.grad(loss, list(trial.parameters.values()))
    train_step(trial, batch)
    for parameter, gradient in zip(trial.parameters.values(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def planted(prepared: Prepared, seed: int) -> Prepared:
    """Three teacher layers: the second knows the labels, the others are noise; most training labels of the student are wrong.

    The wrong labels make the teacher's knowledge worth having: the outer split's labels are right.
    """
    labels, random = np.array(prepared.batches.images.labels), np.random.default_rng(seed)
    n, train = len(labels), prepared.splits.train
    knows = random.normal(size=(10, 8))[labels] + 0.1 * random.normal(size=(n, 8))
    block = np.stack([random.normal(size=(n, 8)), knows, random.normal(size=(n, 8))], 1).reshape(n, 1, 24).astype(np.float32)
    block = (block - block.mean((0, 1))) / block.std((0, 1))
    plan = pair_plan([LayerShape(name, 8, 1, 1) for name in ("noise1", "knows", "noise2")], prepared.plan.student)
    targets = CachedTargets(plan, np.zeros((n, 10), np.float32), {(1, 1): block}, np.arange(n), torch.device("cpu"))
    wrong = random.permutation(train)[: int(0.6 * len(train))]
    labels[wrong] = random.integers(10, size=len(wrong))
    batches = ImageBatches(replace(prepared.batches.images, labels=labels), train, torch.device("cpu"))
    return replace(prepared, targets=targets, batches=batches)


@pytest.mark.parametrize(
    "direction",
    ["gradient_flow", pytest.param("one_step", marks=pytest.mark.slow), pytest.param("diagonal_fisher", marks=pytest.mark.slow)],
)
def test_planted_knowledge_is_found(cache: Path, direction: str) -> None:
    """Over three seeds, the pairs of the layer that knows get most of the weight; uniform weights give them a third."""
    network = Network(name="plain_conv", arguments={"channels": [8, 16], "hidden": 32, "padding": 1})
    config = digits_trial(
        splits={"train": 1000, "outer": 400, "val": 100, "test": 200},
        student=Student(network=network, layers=("conv2", "fc")),
        kd={"weight": 0},
        pairs={"strength": 2.0, "balance": {"kind": "none"}},
        training={"epochs": 16, "batch_size": 100, "optimizer": {"kind": "sgd", "lr": 0.05}},
        weighting={"kind": "learned", "every": 1, "step": 0.03, "warmup": 0.1, "hold": 0.4, "direction": {"kind": direction}},
    )
    prepared = prepare(config, cache)
    for seed in range(3):
        seeded = config.replace(seed=seed)
        result = run_trial(seeded, lambda _: None, cache=cache, prepared=planted(prepared, seed))
        noise1, knows, noise2 = (sum(row) for row in result.held_mean)
        assert knows > 0.5 > max(noise1, noise2), f"seed {seed}: {result.held_mean}"


def test_weights_of_losses_follow_the_epochs(cache: Path, prepared: Prepared) -> None:
    config = digits_trial(
        weighting={"kind": "uniform"},
        kd={"weight": 3.0, "schedule": {"kind": "warm_up", "epochs": 2}},
        pairs={"strength": 2.0, "balance": {"kind": "none"}, "schedule": {"kind": "points", "points": [[1, 0], [2, 0.5]]}},
    )
    trial, batch, totals = start_trial(config, prepared), prepared.splits.train[:32], []
    for trial.epoch in (0, 1):
        losses, _ = inner_gradients(trial, trial.see(batch, trial.schedule.at(0), remembers=False), trial.schedule.at(0))
        totals.append(losses)
        assert (trial.objective.logit_weight, trial.strength) == ((1.5, 0.0), (3.0, 1.0))[trial.epoch]
    assert totals[0].pairs == 0 and totals[1].pairs > 0
