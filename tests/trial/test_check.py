"""What is wrong with a trial is told before anything is trained."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kd_hpo.config.methods import METHODS
from kd_hpo.core.logit_losses import LOGIT_LOSSES
from kd_hpo.data.batches import shuffled_batches
from kd_hpo.errors import ConfigError, DataError, FeatureMismatch, KdHpoError
from kd_hpo.trial.check import check_trial
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.prepare import prepare
from kd_hpo.trial.start import start_trial
from kd_hpo.trial.steps import train_step
from tests.conftest import digits_trial

SMALL = {"name": "plain_conv", "arguments": {"channels": [4, 8], "hidden": 8, "padding": 1}}
ASSISTANT = {"network": SMALL, "training": {"epochs": 1}}


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def check(prepared: Prepared, cache: Path, **changes: object) -> None:
    check_trial(digits_trial(**changes), prepared.batches, prepared.splits, cache)


def test_a_trial_that_can_run_passes(prepared: Prepared, cache: Path) -> None:
    check(prepared, cache)
    check(prepared, cache, assistants=[ASSISTANT])
    check(prepared, cache, weighting={"kind": "none"}, pairs={"loss": {"kind": "attention"}})


RISING = {"schedule": {"kind": "warm_up", "epochs": 0.5}}
WHOLE_RECIPE = {
    "training": {
        "epochs": 2, "batch_size": 32, "optimizer": {"kind": "adamw"}, "decayed": "matrices",
        "lr_schedule": {"kind": "cosine", "warmup": 1, "floor": 1e-5},
        "clip_norm": 5, "label_smoothing": 0.1, "ema": {"decay": 0.9},
    },
    "augment": ["flip", {"name": "RandomChoice", "arguments": {"transforms": [{"name": "MixUp"}, {"name": "CutMix"}]}}],
    "kd": RISING,
    "pairs": RISING,
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_its_first_steps_by_a_whole_recipe(prepared: Prepared, cache: Path, name: str) -> None:
    check_trial(METHODS[name].apply(digits_trial(**WHOLE_RECIPE)), prepared.batches, prepared.splits, cache)


@pytest.mark.parametrize("direction", ["one_step", "gradient_flow"])
@pytest.mark.parametrize("kind", sorted(LOGIT_LOSSES.keys() - {"callable"}))
def test_lambda_learns_by_a_whole_recipe_beside_every_loss_of_the_logits(
    prepared: Prepared, cache: Path, kind: str, direction: str
) -> None:
    weighting = {"kind": "learned", "direction": {"kind": direction}, "every": 2, "evidence": False}
    check(prepared, cache, **WHOLE_RECIPE | {"kd": {"kind": kind, **RISING}, "weighting": weighting})


WITH_NORM = {"network": {"name": "tests.trial.own:with_vector_norm"}, "layers": ["conv"]}
LOOKS_AT_ONE = {"kind": "learned", "outer_batch": 1}


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"student": WITH_NORM, "training": {"epochs": 1, "batch_size": 1}}, "training.batch_size is 1.*batch norm"),
        ({"student": WITH_NORM, "weighting": LOOKS_AT_ONE}, "outer_batch 1.*batch norm"),
        ({"teacher": WITH_NORM | {"training": {"epochs": 1, "batch_size": 1}}}, "teacher.training.batch_size is 1.*batch norm"),
    ],
)
def test_a_batch_of_one_image_is_told_where_batch_norm_cannot_take_it(
    prepared: Prepared, cache: Path, changes: dict[str, object], fact: str
) -> None:
    with pytest.raises(ConfigError, match=fact):
        check(prepared, cache, **changes)
    if "student" in changes:
        with pytest.raises(ConfigError, match=fact):
            start_trial(digits_trial(**changes), prepared)
        without = changes | {"student": {"network": SMALL, "layers": ["conv1"]}}
        check(prepared, cache, **without)


@pytest.mark.parametrize(
    ("changes", "error", "fact"),
    [
        ({"training": {"epochs": 1, "batch_size": 512}}, DataError, "512"),
        ({"student": {"network": SMALL, "layers": ["conv9"]}}, FeatureMismatch, "student: .*conv9"),
        ({"teacher": {"network": SMALL, "layers": ["conv9"]}}, FeatureMismatch, "teacher: .*conv9"),
        ({"weighting": {"kind": "fixed", "matrix": [[1]]}}, ConfigError, "1 x 1"),
        ({"assistants": [ASSISTANT | {"network": {"name": "plain_con"}}]}, ConfigError, "assistant 1: .*plain_con"),
    ],
)
def test_what_does_not_go_together_is_told(
    prepared: Prepared, cache: Path, changes: dict[str, object], error: type[KdHpoError], fact: str
) -> None:
    with pytest.raises(error, match=fact):
        check(prepared, cache, **changes)


def own(name: str, layers: list[str] | None = None, **network: object) -> dict[str, object]:
    return {"network": {"name": f"tests.trial.own:{name}", **network}, "layers": layers or ["conv1", "conv2"]}


@pytest.mark.parametrize(
    ("changes", "error", "fact"),
    [
        ({"student": own("two_heads")}, FeatureMismatch, r"dict.*output: logits"),
        ({"teacher": own("two_heads")}, FeatureMismatch, r"teacher, in training: .*dict.*output: logits"),
        ({"student": own("plain_swish", output=1)}, ConfigError, "one tensor alone; omit it"),
        ({"student": own("checkpointed")}, FeatureMismatch, "conv1.*use_reentrant=False"),
        (
            {"student": own("untrainable")},
            ConfigError,
            r"the student .* ValueError: no such stage at .*own\.py:",
        ),
        ({"teacher": own("untrainable")}, ConfigError, r"the teacher .* no such stage at .*own\.py:"),
        ({"student": own("infinite")}, ConfigError, "not finite"),
        ({"student": own("normed", ["1"]), "training": {"epochs": 1, "batch_size": 1}}, ConfigError, "more than 1 value"),
        ({"teacher": own("plain_swish") | {"weights": "nowhere.pt"}}, ConfigError, "no weights at"),
    ],
)
def test_what_a_network_cannot_do_in_training_is_told_in_one_line(
    prepared: Prepared, cache: Path, changes: dict[str, object], error: type[KdHpoError], fact: str
) -> None:
    with pytest.raises(error, match=fact) as caught:
        check(prepared, cache, **changes)
    assert "\n" not in str(caught.value)


def test_an_output_that_is_named_passes(prepared: Prepared, cache: Path) -> None:
    check(prepared, cache, student=own("two_heads", output="logits"), teacher=own("two_heads", output="logits"))


def test_a_check_leaves_the_random_state_and_tells_what_it_does_otherwise(prepared: Prepared, cache: Path) -> None:
    told = list[str]()
    state = torch.get_rng_state()
    trial = digits_trial(student=own("memory_saving_swish"))
    check_trial(trial, prepared.batches, prepared.splits, cache, told.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(told) == 1 and "two backward passes" in told[0]


@pytest.mark.usefixtures("float64")
def test_without_forward_mode_lambda_learns_the_same(cache: Path) -> None:
    """Six steps with balance and hypergradients, of one function with a rule for forward mode and without."""

    def learned(name: str) -> torch.Tensor:
        weighting = {"kind": "learned", "evidence": False, "every": 2, "warmup": 0.0}
        weighting |= {"direction": {"kind": "unrolled", "steps": 2}}
        changes = {"training": {"epochs": 1, "batch_size": 32}, "pairs": {"balance": {"measures": 1, "every": 3}}}
        config = digits_trial(student=own(name), weighting=weighting, **changes)
        trial = start_trial(config, prepare(config, cache), lambda _: None)
        for batch in shuffled_batches(trial.prepared.splits.train, 32, 0):
            train_step(trial, batch)
        assert trial.pairs is not None
        return torch.cat([trial.pairs.weighting.weights(0).flatten(), *(p.detach().flatten() for p in trial.parameters.values())])

    plain = learned("plain_swish")
    torch.testing.assert_close(learned("memory_saving_swish"), plain, rtol=1e-8, atol=1e-10)
    assert plain[:6].std() > 0.001
