"""What an arm makes of a trial whose lambda is learned."""

from typing import get_args

import pytest

from kd_hpo.config.arms import ARMS, arms_of
from kd_hpo.config.search import ArmName
from kd_hpo.config.study import Search
from kd_hpo.config.weightings import LearnedWeights, NoPairs, SameDepth, Uniform
from tests.conftest import digits_trial

TRIAL = digits_trial(weighting=LearnedWeights(step=0.2, every=3))


def test_every_arm_has_a_name_in_the_settings_and_is_tried_by_default() -> None:
    assert set(get_args(ArmName)) == set(ARMS) == set(Search().arms)


@pytest.mark.parametrize(("arm", "weighting"), [("kd", NoPairs()), ("uniform", Uniform()), ("diagonal", SameDepth())])
def test_a_control_holds_its_weights_and_leaves_all_else(arm: ArmName, weighting: object) -> None:
    changed = ARMS[arm].change(TRIAL)
    assert changed.weighting == weighting and not ARMS[arm].learns
    assert changed.replace(weighting=TRIAL.weighting.model_dump()) == TRIAL


def test_a_form_of_learned_lambda_keeps_how_it_is_learned() -> None:
    learned, assigned, few = (ARMS[arm].change(TRIAL).weighting for arm in ("learned", "one_to_one", "few"))
    assert learned == TRIAL.weighting
    assert assigned == LearnedWeights(step=0.2, every=3, pairing="one_to_one")
    assert few == LearnedWeights(step=0.2, every=3, pairing="one_to_one", keep="half")
    weak = ARMS["weak"].change(TRIAL)
    assert weak.pairs.strength == pytest.approx(TRIAL.pairs.strength / 3) and weak.weighting == TRIAL.weighting
    assert all(ARMS[arm].learns for arm in ("learned", "one_to_one", "few", "weak"))


def test_an_arm_that_makes_the_same_trial_as_another_one_is_left_out() -> None:
    assigned = TRIAL.replace(weighting=LearnedWeights(pairing="one_to_one").model_dump())
    assert arms_of(TRIAL, Search().arms) == Search().arms
    assert arms_of(assigned, ("learned", "one_to_one", "few")) == ("learned", "few")


def test_a_weighting_of_ones_own_is_not_confined() -> None:
    own = digits_trial(weighting={"kind": "callable", "callable": "a.module:weighting"})
    assert arms_of(own, Search().arms) == ("learned", "kd", "uniform", "diagonal", "weak")


def test_a_trial_that_learns_no_lambda_has_no_arms() -> None:
    assert arms_of(digits_trial(weighting=Uniform()), Search().arms) == ()
