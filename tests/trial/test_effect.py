"""Trials that agree in what acts on them are the same trial."""

import pytest

from kd_hpo.trial.effect import effect, has_regressors
from tests.conftest import digits_trial

ALONE = {"weighting": {"kind": "none"}}


@pytest.mark.parametrize(
    ("always", "changes", "same"),
    [
        ({}, {"seed": 1}, False),
        ({}, {"pairs": {"strength": 9}}, False),
        (ALONE, {"pairs": {"strength": 9}}, True),
        (ALONE, {"student": {"network": {"name": "plain_conv"}, "layers": ["fc"]}}, False),
        ({"pairs": {"loss": {"kind": "similarity"}}}, {"pairs": {"loss": {"kind": "similarity"}, "regressor_lr": 0.5}}, True),
        ({"pairs": {"loss": {"kind": "hint"}}}, {"pairs": {"loss": {"kind": "hint"}, "regressor_lr": 0.5}}, False),
        (ALONE | {"kd": {"weight": 0}}, {"kd": {"weight": 0, "temperature": 9}}, True),
        (ALONE, {"kd": {"weight": 1, "temperature": 9}}, False),
        ({"kd": {"kind": "mse"}}, {"kd": {"kind": "mse", "temperature": 9}}, True),  # only of the logits' pair inside
        ({"kd": {"kind": "mse"}, "pairs": {"logits": "inside"}}, {"kd": {"kind": "mse", "temperature": 9}}, False),
        ({"kd": {"kind": "dkd"}}, {"kd": {"kind": "dkd", "others": 2}}, False),
    ],
)
def test_only_what_acts_counts(always: dict[str, object], changes: dict[str, object], same: bool) -> None:
    one, two = digits_trial(**always), digits_trial(**(always | changes))
    assert one != two
    assert (effect(one) == effect(two)) == same


def test_layers_act_where_pairs_do() -> None:
    fewer = digits_trial().student.replace(layers=("fc",)).model_dump()
    assert effect(digits_trial()) != effect(digits_trial(student=fewer))
    assert effect(digits_trial(**ALONE)) == effect(digits_trial(**ALONE, student=fewer))


@pytest.mark.parametrize(
    ("kind", "expected"), [("gaussian", True), ("hint", True), ("infonce", True), ("pkt", False), ("rkd", False), ("exit", True)]
)
def test_losses_that_have_something_to_train(kind: str, expected: bool) -> None:
    assert has_regressors(digits_trial(pairs={"loss": {"kind": kind}})) == expected
