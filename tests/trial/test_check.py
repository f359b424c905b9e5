"""What is wrong with a trial is told before anything is trained."""

from pathlib import Path

import pytest

from kd_hpo.errors import ConfigError, DataError, FeatureMismatch, KdHpoError
from kd_hpo.trial.check import check_trial
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.start import start_trial
from tests.conftest import digits_trial

SMALL = {"name": "plain_conv", "arguments": {"channels": [4, 8], "hidden": 8, "padding": 1}}
ASSISTANT = {"network": SMALL, "training": {"epochs": 1}}


def check(prepared: Prepared, cache: Path, **changes: object) -> None:
    check_trial(digits_trial(**changes), prepared.batches, prepared.splits, cache)


def test_a_trial_that_can_run_passes(prepared: Prepared, cache: Path) -> None:
    check(prepared, cache)
    check(prepared, cache, assistants=[ASSISTANT])
    check(prepared, cache, weighting={"kind": "none"}, pairs={"loss": {"kind": "attention"}})


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
