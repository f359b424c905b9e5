"""The methods: what each changes, that a planted difference is seen, and the schedules that are theirs."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from kd_hpo.config import weightings
from kd_hpo.config.load import with_settings
from kd_hpo.config.methods import METHODS, title_of, widened
from kd_hpo.config.training import factor_of
from kd_hpo.config.trial import Network
from kd_hpo.config.weightings import NoPairs
from kd_hpo.core.pair_losses import PAIR_LOSSES
from kd_hpo.errors import ConfigError, FeatureMismatch
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.passes import pair_targets
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

FEATURE_METHODS = [
    "fitnets",
    "at",
    "sp",
    "vid",
    "pkt",
    "rkd",
    "reviewkd",
    "ifm",
    "semckd",
    "semckd_own",
    "uniform",
    "random",
    "hetero",
]


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_its_own_space_exist(name: str) -> None:
    trial = METHODS[name].apply(digits_trial())
    for path, chosen in METHODS[name].space.items():
        assert with_settings(trial, {path: chosen.low}) != with_settings(trial, {path: chosen.high})


@pytest.mark.parametrize("name", METHODS)
def test_what_is_common_stays(name: str) -> None:
    given, trial = digits_trial(), METHODS[name].apply(digits_trial())
    for field in ("data", "splits", "teacher", "student", "training", "augment", "seed", "device"):
        assert getattr(trial, field) == getattr(given, field)


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_pairs_move_the_student(cache: Path, name: str) -> None:
    """At strength next to nothing the student ends elsewhere."""
    strong = METHODS[name].apply(digits_trial(pairs={"balance": {"kind": "none"}}))
    weak = with_settings(strong, {"pairs.strength": 1e-6})
    losses = [run_trial(config, lambda _: None, cache=cache).last.metrics["train/loss"] for config in (strong, weak)]
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("kind", ["standardised", "dkd", "dist"])
def test_lambda_learns_beside_every_loss_of_the_logits(cache: Path, kind: str) -> None:
    """By `base: hetero` and `set`, as an entry of compare.methods has them."""
    method = {"kd": {"kind": kind}, "weighting.evidence": False, "training.optimizer.lr": 0.01}
    result = run_trial(METHODS["hetero"].apply(digits_trial(), method), lambda _: None, cache=cache)
    assert result.config.kd.kind == kind
    assert result.last.metrics["train/kd"] < result.records[0].metrics["train/kd"]
    assert max(map(max, result.last.weights)) > min(map(min, result.last.weights))


def test_titles_say_what_compares_the_logits() -> None:
    trial = digits_trial(kd={"kind": "dkd"})
    for name, title in {
        "vid": "DKD + VID, same depth",
        "kd": "DKD",
        "dkd": "DKD, without the published warm-up",
        "ce": "student alone",
    }.items():
        assert title_of(name, METHODS[name].apply(trial)) == title
        assert title_of(name, METHODS[name].apply(digits_trial())) == METHODS[name].title
    assert title_of("fitnets", METHODS["fitnets"].apply(trial)) == "FitNets: hint stage, then DKD"
    assert title_of("standardised", METHODS["standardised"].apply(trial)) == "KD of standardised logits"


@pytest.mark.parametrize(("name", "where"), [("dkd", "kd"), ("reviewkd", "pairs")])
def test_the_published_warm_up_is_there_and_told(name: str, where: str) -> None:
    """mdistiller, and ReviewKD's authors: min(epoch / 20, 1) of 240 epochs, counted from 1."""
    trial = METHODS[name].apply(digits_trial(training={"epochs": 240}))
    schedule = getattr(trial, where).schedule
    found = [factor_of(schedule, done, 240) for done in range(240)]
    assert found == pytest.approx([min(epoch / 20, 1) for epoch in range(1, 241)])
    assert factor_of(schedule, 0, 8) == 1  # over in a short training's first epoch
    assert title_of(name, trial).endswith(", warmed up over a twelfth of the epochs")
    assert title_of(name, with_settings(trial, {f"{where}.schedule.epochs": 20})) == title_of(name, trial)
    for changes in ({f"{where}.schedule": None}, {f"{where}.schedule.epochs": 40}):
        assert title_of(name, with_settings(trial, changes)).endswith(", without the published warm-up")


def test_plain_training_keeps_no_weight_of_the_task() -> None:
    assert METHODS["ce"].apply(digits_trial(kd={"kind": "dkd", "task_weight": 0.1})).kd.task_weight is None


def test_pairs_of_a_method_are_its_own(cache: Path, prepared: Prepared) -> None:
    """T = conv1, conv2, fc; S = conv1, fc."""
    where = {
        "fitnets": [[0, 0], [0, 1], [0, 0]],  # the middle of both: conv2 to fc
        "at": [[1, 0], [0, 0], [0, 0]],  # of the same-depth pairs, fc to fc has no positions
        "sp": [[0, 0], [1, 0], [0, 0]],  # the last maps
        "vid": [[0.5, 0], [0, 0], [0, 0.5]],
        "pkt": [[0, 0], [0, 0], [0, 1]],
        "rkd": [[0, 0], [0, 0], [0, 1]],
    }
    for name, expected in where.items():
        config = METHODS[name].apply(digits_trial())
        pairs = start_trial(config, prepare(config, cache)).pairs
        assert pairs is not None
        assert pairs.weighting.weights(0).tolist() == expected, name


def test_ofa_has_an_exit_at_each_layer_of_the_student_and_reads_both_labels_of_mixed_images(cache: Path) -> None:
    config = METHODS["ofa"].apply(digits_trial(augment=["mixup"]))
    trial = start_trial(config, prepare(config, cache))
    assert trial.pairs is not None
    assert trial.pairs.weighting.weights(0).tolist() == [[0, 0, 0]] * 3 + [[0.5, 0.5, 0]]  # conv1, fc; the logits aside
    heads = [p.detach().clone() for p in trial.pairs.losses.parameters()]
    assert [tuple(p.shape) for p in heads] == [(10, 4), (10,), (10, 8), (10,)]
    seen = trial.see(trial.prepared.splits.train[:32], trial.schedule.at(0), remembers=False)
    assert seen.targets is not None
    assert seen.targets.shares is not None
    kinds = {tuple(sorted({round(float(v), 5) for v in row if v})) for row in seen.targets.shares}
    assert kinds - {(1.0,)} == {tuple(sorted({round(seen.view.share, 5), round(1 - seen.view.share, 5)}))}
    assert train_step(trial, trial.prepared.splits.train[:32]).pairs > 0
    assert not any(torch.equal(a, b) for a, b in zip(heads, trial.pairs.losses.parameters(), strict=True))


def test_lambda_learns_which_exits_help(cache: Path) -> None:
    exits = {"loss": {"kind": "exit"}, "logits": "inside", "unserved": "leave_out"}
    config = METHODS["hetero"].apply(
        digits_trial(pairs=exits), {"weighting.evidence": False, "weighting.outer_objective": "task_and_pairs"}
    )
    last = torch.tensor(run_trial(config, lambda _: None, cache=cache).last.weights)
    assert not last[:3, :2].any()
    assert last[3, :2].min() > 0
    assert last[3, 0] != last[3, 1]


def test_exits_without_the_logits_as_a_layer_are_refused(cache: Path) -> None:
    config = digits_trial(weighting={"kind": "exits"})
    with pytest.raises(ConfigError, match="logits: inside"):
        start_trial(config, prepare(config, cache))


def test_information_flow_fades_but_for_the_last_pair(cache: Path) -> None:
    config = METHODS["ifm"].apply(digits_trial())
    pairs = start_trial(config, prepare(config, cache)).pairs
    assert pairs is not None
    for epoch in (0, 1, 5):
        weights = pairs.weighting.weights(epoch) * pairs.weighting.total(epoch)
        torch.testing.assert_close(weights, torch.tensor([[100 * 0.7**epoch, 0], [0, 1.0]]))


def test_fitnets_trains_its_hint_first_and_then_labels_alone(cache: Path) -> None:
    config = with_settings(METHODS["fitnets"].apply(digits_trial()), {"pairs.stages.share": 0.5})
    trial = start_trial(config, prepare(config, cache))
    assert trial.pairs is not None
    batch = trial.prepared.splits.train[:32]
    head = dict(trial.student.named_parameters())["network.logits.weight"]
    losses = train_step(trial, batch)
    assert losses.pairs > 0
    assert losses.kd == 0
    assert head.grad is None  # the hint ends before it
    trial.step = trial.schedule.steps // 2
    regressors = [p.detach().clone() for p in trial.pairs.losses.parameters()]
    losses = train_step(trial, batch)
    assert losses.pairs == 0
    assert losses.kd > 0
    assert head.grad is not None
    assert all(torch.equal(a, b) for a, b in zip(regressors, trial.pairs.losses.parameters(), strict=True))


def test_each_of_fitnets_stages_has_the_whole_schedule_and_an_optimiser_of_its_own(cache: Path) -> None:
    config = with_settings(METHODS["fitnets"].apply(digits_trial()), {"pairs.stages.share": 0.3})
    trial = start_trial(config, prepare(config, cache))
    batch, rates, fresh = trial.prepared.splits.train[:32], [], []
    first, total = 9, 28  # 9 is 0.3 * 28, up to a whole step
    for step in range(total):
        optimizer = trial.optimizer
        train_step(trial, batch)
        fresh += [step] if trial.optimizer is not optimizer else []
        rates += [trial.lr_schedule._last_lr[0]]  # that of the step after
    lr = config.training.optimizer.lr
    for steps, found in ((first, rates[:first]), (total - first, rates[first:])):
        weights = torch.nn.Linear(1, 1).parameters()
        alone = torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD(weights, lr=lr), lr, steps, cycle_momentum=False)
        expected = []
        for _ in range(steps):
            alone.optimizer.step()
            alone.step()
            expected.append(alone.get_last_lr()[0])
        assert found == pytest.approx(expected)
    assert fresh == [first]  # without the momentum of the stage before


def test_assistants_of_the_study_are_those_of_takd_alone() -> None:
    default = METHODS["takd"].apply(digits_trial(kd={"weight": 0}))
    assert default.assistants[0].network.arguments["channels"] == [6, 6]  # the student's are [4, 4]
    assert isinstance(default.assistants[0].weighting, NoPairs)
    assert default.assistants[0].kd.weight == 1
    given = digits_trial(assistants=default.assistants)
    assert METHODS["takd"].apply(given).assistants == default.assistants
    assert METHODS["kd"].apply(given).assistants == ()
    auxiliary = METHODS["ifm"].apply(given).assistants
    assert auxiliary == METHODS["ifm"].apply(digits_trial()).assistants
    assert auxiliary[0].network.arguments["channels"] == [8, 8]


def test_assistants_of_a_methods_entry_come_before_all_others() -> None:
    """Also where there is no rule to widen the student."""
    own = [each.model_dump() for each in METHODS["takd"].apply(digits_trial()).assistants]
    student = {"network": {"name": "torchvision/resnet18"}, "layers": ["fc"]}
    for name in ("ifm", "takd"):
        trial = METHODS[name].apply(digits_trial(student=student), {"assistants": own, "kd.weight": 2.0})
        assert [each.model_dump() for each in trial.assistants] == own
        assert trial.kd.weight == 2


def test_network_that_cannot_be_widened() -> None:
    with pytest.raises(ConfigError, match=r"no rule to widen the network 'torchvision/resnet18'; .*set: {assistants: "):
        widened(Network(name="torchvision/resnet18"), 2)


def test_pair_that_a_loss_cannot_serve_is_refused_by_name(cache: Path) -> None:
    config = digits_trial(pairs={"loss": {"kind": "attention"}}, weighting={"kind": "uniform"})
    with pytest.raises(
        FeatureMismatch, match=r"attention cannot compare teacher layer conv1 .* with student layer fc .*leave_out"
    ):
        start_trial(config, prepare(config, cache))
    left_out = with_settings(config, {"pairs.unserved": "leave_out"})
    pairs = start_trial(left_out, prepare(left_out, cache)).pairs
    assert pairs is not None
    assert pairs.weighting.weights(0).tolist() == [[0.5, 0], [0.5, 0], [0, 0]]


def test_method_whose_pairs_are_all_unserved_is_refused(cache: Path) -> None:
    """The one same-depth pair of these layers ends in a vector."""
    given = digits_trial()
    config = METHODS["at"].apply(
        given.replace(
            teacher=given.teacher.replace(layers=("conv1", "fc")).model_dump(),
            student=given.student.replace(layers=("conv1",)).model_dump(),
        )
    )
    with pytest.raises(FeatureMismatch, match=r"only pairs that the loss cannot compare: fc -> conv1; choose"):
        start_trial(config, prepare(config, cache))


@pytest.mark.parametrize("name", ["kd", "takd", *[m for m in FEATURE_METHODS if m not in ("uniform", "random", "hetero")]])
def test_published_methods_have_kd_outside_the_matrix(name: str) -> None:
    inside = digits_trial(pairs={"logits": "inside", "batch_share": 0.5}, kd={"weight": 0, "temperature": 3})
    config = METHODS[name].apply(inside)
    assert config.kd.weight == 1
    assert config.kd.temperature == 3
    if name not in ("kd", "takd"):
        assert (config.pairs.logits, config.pairs.batch_share) == ("outside", 1)


def test_learned_weights_leave_unserved_pairs_at_zero(cache: Path) -> None:
    config = digits_trial(
        pairs={"loss": {"kind": "attention"}, "unserved": "leave_out"},
        weighting={"kind": "learned", "every": 2, "evidence": False},
    )
    result = run_trial(config, lambda _: None, cache=cache)
    matrix = torch.tensor(result.held_mean)
    assert matrix[:, 1].tolist() == [0, 0, 0]
    assert matrix.sum() == pytest.approx(1)
    assert matrix[0, 0] != matrix[1, 0]


ANY_MATRIX = [[1, 0], [2, 1], [0, 3]]
OF_EXITS = ["uniform", "exits", "attention", "learned"]
"""Weightings that weigh pairs with the logits whatever the other layers are."""
WEIGHTINGS: dict[str, dict[str, object]] = {
    "uniform": {},
    "same_depth": {},
    "exits": {},
    "one_pair": {"teacher": "conv2", "student": "conv1"},
    "selected": {"pair": "last_map"},
    "random": {},
    "random_layers": {},
    "fixed": {"matrix": ANY_MATRIX},
    "replay": {"matrices": [ANY_MATRIX, ANY_MATRIX[::-1]]},
    "information_flow": {},
    "attention": {},
    "learned": {"every": 1, "warmup": 0.0},
}


def test_every_weighting_is_here() -> None:
    members = get_args(get_args(weightings.Weighting)[0])
    # an exported matrix becomes a fixed one when its study is read
    assert {member.model_fields["kind"].default for member in members} == {*WEIGHTINGS, "none", "exported", "callable"}


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("loss", PAIR_LOSSES)
@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_any_loss_goes_with_any_weighting(cache: Path, kind: str, loss: str, share: float) -> None:
    if (loss == "exit" and kind not in OF_EXITS) or (kind == "exits" and loss == "attention"):
        return  # an exit has the teacher's logits alone, which have no positions
    logits = "inside" if "exit" in (loss, kind.removesuffix("s")) else "outside"
    pairs = {"loss": {"kind": loss}, "unserved": "leave_out", "balance": {"kind": "none"}, "batch_share": share, "logits": logits}
    config = digits_trial(pairs=pairs, weighting={"kind": kind, **WEIGHTINGS[kind]}, kd={"weight": 0})
    trial = start_trial(config, prepare(config, cache))
    assert trial.pairs is not None
    for _ in range(3):
        losses = train_step(trial, trial.prepared.splits.train[:32])
        assert losses.stacked().isfinite().all()
        assert losses.pairs != 0
    served = trial.pairs.weighting.support()
    weights = trial.pairs.weighting.of_epoch(0)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert (weights[~served] == 0).all()


def test_replay_without_a_teachers_signal(cache: Path) -> None:
    """The control of what a schedule does by itself: lambda as it was learned, each example with another one's features."""
    learned = run_trial(
        digits_trial(weighting={"kind": "learned", "every": 1, "hold": 0.2, "evidence": False}), lambda _: None, cache=cache
    )
    trajectory = [record.weights for record in learned.records]
    assert trajectory[0] != trajectory[-1]
    config = digits_trial(weighting={"kind": "replay", "matrices": trajectory}, pairs={"targets": "shuffled"})
    replayed = run_trial(config, lambda _: None, cache=cache)
    for ours, theirs in zip(replayed.records, trajectory, strict=True):
        torch.testing.assert_close(torch.tensor(ours.weights), torch.tensor(theirs))
    trial = start_trial(config, prepare(config, cache))
    batch = trial.prepared.splits.train[:32]
    given = trial.prepared.targets.batch(batch, trial.prepared.batches.inputs(batch), trial.prepared.plan.sizes)
    compared = pair_targets(trial, given)
    for size, block in given.blocks.items():
        assert (compared.blocks[size] == block).flatten(1).all(1).sum() <= 4  # by chance an example keeps its own
