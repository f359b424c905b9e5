"""Weightings of the settings' names, over the pairs that the loss serves."""

import pytest
import torch

from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.plan import LayerShape, PairPlan, pair_plan
from kd_hpo.errors import FeatureMismatch, KdHpoError
from kd_hpo.trial.weighting import build_weighting, served_pairs
from tests.conftest import digits_trial

T, S = 3, 2


def plan() -> PairPlan:
    """Maps, but for the last layer of each: a vector."""
    teacher = [LayerShape("conv1", 3, 4, 4), LayerShape("conv2", 4, 2, 2), LayerShape("fc", 5, 1, 1)]
    return pair_plan(teacher, [LayerShape("conv1", 2, 4, 4), LayerShape("fc", 4, 1, 1)])


@pytest.mark.parametrize(
    "weighting",
    [
        {"kind": "uniform"},
        {"kind": "same_depth"},
        {"kind": "random", "draw": 3},
        {"kind": "selected", "pair": "middle"},
        {"kind": "one_pair", "teacher": "conv2", "student": "fc"},
        {"kind": "fixed", "matrix": [[1, 2], [0, 0], [3, 0]]},
        {"kind": "replay", "matrices": [[[1, 0]] * 3, [[0, 1]] * 3]},
        {"kind": "replay", "matrices": [[[1, 0]] * 3], "start": [[0, 1]] * 3, "totals": [2.0]},
        {"kind": "learned"},
    ],
    ids=lambda weighting: str(weighting["kind"]),
)
def test_weights_are_on_the_simplex(weighting: dict[str, object]) -> None:
    built = build_weighting(digits_trial(weighting=weighting), plan(), torch.ones(T, S))
    for epoch in (0, 1, 5):
        weights = built.weights(epoch)
        assert weights.shape == (T, S) and float(weights.sum()) == pytest.approx(1) and bool((weights >= 0).all())
        assert not weights[~built.support()].any()


def test_a_pair_is_where_its_layers_are() -> None:
    weighting = {"kind": "one_pair", "teacher": "conv2", "student": "fc"}
    weights = build_weighting(digits_trial(weighting=weighting), plan(), torch.ones(T, S)).weights(0)
    assert weights.nonzero().tolist() == [[1, 1]]


def test_pairs_that_are_not_served_have_no_weight() -> None:
    served = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    for kind in ("uniform", "learned"):
        assert not build_weighting(digits_trial(weighting={"kind": kind}), plan(), served).weights(0)[served == 0].any()
    alone = {"kind": "one_pair", "teacher": "conv1", "student": "fc"}
    with pytest.raises(FeatureMismatch, match="conv1 -> fc"):
        build_weighting(digits_trial(weighting=alone), plan(), served)


@pytest.mark.parametrize(
    ("weighting", "fact"),
    [
        ({"kind": "one_pair", "teacher": "conv9", "student": "fc"}, "'conv9'.*conv1, conv2, fc"),
        ({"kind": "fixed", "matrix": [[1, 0]]}, "1 x 2"),
        ({"kind": "learned", "start": [[1, 0]]}, "weighting.start"),
    ],
)
def test_settings_that_do_not_fit_the_layers_are_told(weighting: dict[str, object], fact: str) -> None:
    with pytest.raises(KdHpoError, match=fact):
        build_weighting(digits_trial(weighting=weighting), plan(), torch.ones(T, S))


def test_a_loss_that_cannot_compare_a_pair_leaves_it_out_where_that_is_asked_for() -> None:
    loss = pair_loss("attention")
    pairs = {"loss": {"kind": "attention"}, "unserved": "leave_out", "logits": "outside"}
    of = pair_plan(plan().teacher, plan().student, meet=loss.meet)
    # Attention compares positions: a pair with a vector in it has one.
    assert served_pairs(loss, of, digits_trial(pairs=pairs).pairs).tolist() == [[1, 0], [1, 0], [0, 0]]
    with pytest.raises(FeatureMismatch, match=r"fc .*position"):
        served_pairs(loss, of, digits_trial(pairs=pairs | {"unserved": "refuse"}).pairs)
