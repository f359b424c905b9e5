"""A loop of one's own takes the steps of `run_trial`, to the last bit, and is told by name what it lacks."""

import copy
import io
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from kd_hpo.data.batches import Indices, drawn_batch, shuffled_batches
from kd_hpo.distiller import networks
from kd_hpo.distiller.distiller import Distiller
from kd_hpo.errors import CheckpointMismatch, ConfigError, FeatureMismatch
from kd_hpo.trial.loop import LAST_WEIGHTS
from kd_hpo.trial.optimizers import build_optimizer, build_schedule
from kd_hpo.trial.parts import Prepared, build_student
from kd_hpo.trial.randomness import ORDER, OUTER
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial
from tests.distiller.loops import LEARNED, STEPS, Net, batch, loop_of, train

OFTEN = {"kind": "learned", "every": 3, "warmup": 0.3, "hold": 0.1, "evidence": False}


@pytest.mark.parametrize(
    "weighting",
    [OFTEN, OFTEN | {"direction": {"kind": "unrolled", "steps": 3}, "outer_objective": "task_and_pairs"}],
    ids=["before the step", "after it"],
)
def test_numbers_are_those_of_run_trial(tmp_path: Path, cache: Path, prepared: Prepared, weighting: dict[str, object]) -> None:
    """To the last bit: lambda at the end of each epoch, and the student's weights."""
    config = digits_trial(weighting=weighting, training={"epochs": 2, "batch_size": 32})
    result = run_trial(config, lambda _: None, cache=cache, prepared=prepared, folder=tmp_path)

    splits, training = prepared.splits, config.training
    steps = training.epochs * (len(splits.train) // training.batch_size)
    torch.manual_seed(config.seed)
    student = build_student(config, prepared.batches, cache).train()
    optimizer = build_optimizer(training, student)
    rate = build_schedule(training, optimizer, steps)
    kd = Distiller(
        prepared.teacher.network,
        student,
        prepared.batches.inputs(splits.train),
        task=F.cross_entropy,
        optimizer=optimizer,
        steps=steps,
        teacher_layers=("conv1", "conv2", "fc"),
        student_layers=("conv1", "fc"),
        weighting=config.weighting,
        seed=config.seed,
    )

    def images(indices: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        return prepared.batches.inputs(indices), prepared.batches.labels(indices)

    lambdas, step = list[torch.Tensor](), 0
    for epoch in range(training.epochs):
        for indices in shuffled_batches(splits.train, training.batch_size, config.seed, ORDER, epoch):
            (x, y), drawn = images(indices), drawn_batch(splits.outer, 256, config.seed, OUTER, step)
            taught = kd(x, y, outer=partial(images, drawn))
            optimizer.zero_grad()
            (F.cross_entropy(taught.logits, y) + taught.loss).backward()
            optimizer.step()
            rate.step()
            kd.step()
            step += 1
        lambdas.append(kd.end_epoch())
    assert [x.tolist() for x in lambdas] == [[list(row) for row in record.weights] for record in result.records]
    assert len({tuple(x.flatten().tolist()) for x in lambdas}) == 2  # it has moved
    assert kd.scales.tolist() == [list(row) for row in result.last.scales]
    trained = load_file(tmp_path / LAST_WEIGHTS)
    assert all(torch.equal(value, trained[name]) for name, value in student.state_dict().items())


def test_the_loss_is_its_terms_and_its_gradient_theirs() -> None:
    weights = torch.tensor([[0.5, 0.2], [0.3, 0.0]])
    kd, student, _ = loop_of(
        weighting={"kind": "fixed", "matrix": weights.tolist()},
        teacher_layers=["one", "two"],
        student_layers=["one", "two"],
        pairs={"strength": 2.0, "loss": {"kind": "similarity"}},
        scales=torch.full((2, 2), 3.0),
        kd={"weight": 0.5},
    )
    x, y = batch(0)
    taught = kd(x, y)
    assert taught.pair_losses.shape == (2, 2) and taught.pair_losses[1, 1] == 0
    torch.testing.assert_close(taught.loss, 0.5 * taught.logit_loss + taught.pair_losses.sum())

    other = copy.deepcopy(student)
    uniform = loop_of(
        other,
        weighting={"kind": "fixed", "matrix": [[1, 0], [0, 0]]},
        teacher_layers=["one", "two"],
        student_layers=["one", "two"],
        pairs={"strength": 1.0, "loss": {"kind": "similarity"}, "balance": {"kind": "none"}},
        kd={"weight": 0.0},
    )[0]
    only_first = uniform(x, y)
    torch.testing.assert_close(only_first.pair_losses[0, 0] * 2.0 * 3.0 * 0.5, taught.pair_losses[0, 0])
    only_first.loss.backward()
    assert other.two.weight.grad is None  # the pair one -> one enters above it
    assert other.one.weight.grad.abs().sum() > 0


def test_a_loop_goes_on_from_its_state_to_the_same_bits() -> None:
    whole, student, optimizer = loop_of()
    train(whole, optimizer, range(STEPS))

    first, half, before = loop_of()
    train(first, before, range(STEPS // 2))
    kept = io.BytesIO()
    torch.save({"kd": first.state_dict(), "student": half.state_dict(), "optimizer": before.state_dict()}, kept)
    kept.seek(0)
    saved = torch.load(kept, weights_only=True)
    again, rest, after = loop_of(Net(3, 7).train())
    rest.load_state_dict(saved["student"])
    after.load_state_dict(saved["optimizer"])
    again.load_state_dict(saved["kd"])
    train(again, after, range(STEPS // 2, STEPS))
    assert torch.equal(again.weights, whole.weights) and not torch.equal(whole.weights, loop_of()[0].weights)
    assert all(torch.equal(a, b) for a, b in zip(rest.state_dict().values(), student.state_dict().values(), strict=True))
    with pytest.raises(CheckpointMismatch, match="layers"):
        loop_of(student_layers=["two"])[0].load_state_dict(saved["kd"])


def test_accumulated_batches_are_one_step() -> None:
    kd, _, optimizer = loop_of()
    for number in range(2):
        assert kd.wants_outer is False
        taught = kd(*batch(number))
        taught.loss.backward()
    optimizer.step()
    kd.step()
    assert kd.state_dict()["step"] == 1


def test_outside_of_training_no_step_begins() -> None:
    kd, student, _ = loop_of()
    student.eval()
    assert kd(batch(0)[0]).logits.shape == (8, 3)
    student.train()
    with torch.no_grad():
        kd(batch(0)[0])
    with pytest.raises(ConfigError, match="call the distiller on a batch first"):
        kd.step()


def test_under_autocast_losses_stay_in_float32_and_lambda_learns() -> None:
    kd, _, optimizer = loop_of()
    with torch.autocast("cpu", torch.bfloat16):
        taught = kd(*batch(0))
        assert taught.loss.dtype == taught.logits.dtype == torch.float32
        assert taught.features[0].dtype == torch.bfloat16
    kd, _, optimizer = loop_of()
    for number in range(STEPS):
        x, y = batch(number)
        with torch.autocast("cpu", torch.bfloat16):
            taught = kd(x, y, outer=lambda: batch(50, 16))
        optimizer.zero_grad()
        (F.cross_entropy(taught.logits, y) + taught.loss).backward()
        optimizer.step()
        kd.step()
    assert not torch.equal(kd.weights, loop_of()[0].weights)
    with torch.autocast("cpu", torch.float16), pytest.raises(ConfigError, match=r"float16.*bfloat16"):
        kd(*batch(0))


def test_a_compiled_student_runs_compiled_and_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, _, optimizer = loop_of()
    train(plain, optimizer, range(5))
    torch.compiler.reset()
    kd, _, optimizer = loop_of(torch.compile(Net(3, 1).train()))
    train(kd, optimizer, range(5))
    torch.testing.assert_close(kd.weights, plain.weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": None}, r"lambda is learned, which needs task:"),
        ({"weighting": {"kind": "uniform"}, "optimizer": None, "steps": None}, r"balanced, which needs optimizer, steps"),
        ({"steps": 0}, "steps is 0"),
        ({"weighting": LEARNED | {"direction": {"kind": "neumann"}}}, r"neumann.*fresh"),
        ({"weighting": LEARNED | {"evry": 3}}, "evry"),
        ({"pairs": {"stages": {"kind": "pairs_first"}}}, "pairs_first"),
        ({"pairs": {"schedule": {"kind": "warm_up", "epochs": 0.5}}}, r"pairs.schedule.epochs is 0.5"),
        ({"scales": torch.ones(1, 1)}, r"scales are \(1, 1\)"),
        ({"student_layers": ["fc"]}, "student: Net has no layer 'fc'"),
        ({"teacher_layers": ["tow"]}, r"teacher: .*'tow'; did you mean 'two'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], said: str) -> None:
    with pytest.raises((ConfigError, FeatureMismatch), match=said):
        loop_of(**changes)


def test_an_optimiser_that_a_direction_cannot_go_back_through_is_refused() -> None:
    other = torch.optim.Rprop(Net(3, 1).parameters())
    with pytest.raises(ConfigError, match="Rprop"):
        loop_of(optimizer=other, weighting=LEARNED | {"direction": {"kind": "one_step"}})


def test_an_outer_batch_that_is_due_has_to_be_given() -> None:
    kd, _, optimizer = loop_of()
    with pytest.raises(ConfigError, match="looks at the outer batch"):
        for number in range(STEPS):
            kd(*batch(number)).loss.backward()
            optimizer.step()
            kd.step()
    assert kd.wants_outer


def test_moved_to_where_it_is_it_goes_on_the_same() -> None:
    whole, _, optimizer = loop_of()
    train(whole, optimizer, range(STEPS))
    moved, _, optimizer = loop_of()
    train(moved, optimizer, range(STEPS // 2))
    train(moved.to("cpu"), optimizer, range(STEPS // 2, STEPS))
    assert torch.equal(moved.weights, whole.weights)


def test_without_pairs_the_logits_alone_teach() -> None:
    kd = Distiller(Net(5, 0), Net(3, 1), batch(99)[0], weighting={"kind": "none"}, kd={"weight": 2.0})
    taught = kd(*batch(0))
    assert taught.teacher_logits is not None and kd.layers == ((), ())
    p, q = (F.softmax(logits.detach() / 4.0, 1) for logits in (taught.teacher_logits, taught.logits))
    torch.testing.assert_close(taught.loss.detach(), 2.0 * 16.0 * (p * (p / q).log()).sum(1).mean())
    kd.step()
    assert kd.end_epoch().shape == (0, 0)
