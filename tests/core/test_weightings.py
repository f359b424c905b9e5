"""Constant points of the simplex, and a replayed trajectory."""

import pytest
import torch

from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.core.weightings import (
    CONSTANT_WEIGHTINGS,
    Constant,
    InformationFlow,
    RandomLayers,
    Replay,
    one_pair,
    random_point,
    same_depth,
    selected_pair,
)

T, S = 3, 2


# Constant ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", CONSTANT_WEIGHTINGS.values(), ids=CONSTANT_WEIGHTINGS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (3, 4), (5, 2), (1, 4)])
def test_constant_weightings_are_points_of_the_simplex(make, shape: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    weights = Constant(make(shape)).weights(0)
    assert weights.shape == shape
    assert (weights >= 0).all()
    assert float(weights.sum()) == pytest.approx(1)


def test_constant_is_brought_to_the_simplex_and_stays() -> None:
    weighting = Constant(torch.tensor([[1.0, 3.0]]))
    assert weighting.weights(0).tolist() == weighting.weights(99).tolist() == [[0.25, 0.75]]
    weighting.load_state_dict(weighting.state_dict())
    assert weighting.weights(1).tolist() == [[0.25, 0.75]]


def test_replay_starts_each_epoch_from_what_the_one_before_ended_with_and_holds_the_last() -> None:
    weighting = Replay([torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 2.0]])], torch.ones(1, 2))
    ends = [[[0.25, 0.75]], [[0.75, 0.25]], [[0.0, 1.0]]]
    assert [weighting.of_epoch(epoch).tolist() for epoch in (0, 1, 2, 50)] == [*ends, ends[-1]]
    assert [weighting.weights(epoch).tolist() for epoch in (0, 1, 2, 3, 50)] == [[[0.5, 0.5]], *ends, ends[-1]]
    assert [weighting.total(epoch) for epoch in (0, 1, 50)] == [1, 1, 1]


def test_replay_begins_where_it_is_told_and_its_totals_go_with_its_matrices() -> None:
    trajectory, start = [torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 1.0]])], torch.tensor([[0.0, 2.0]])
    weighting = Replay(trajectory, torch.ones(1, 2), start=start, totals=(0.5, 2.0))
    assert [weighting.weights(epoch).tolist() for epoch in (0, 1, 2)] == [[[0.0, 1.0]], [[0.25, 0.75]], [[0.75, 0.25]]]
    assert [weighting.total(epoch) for epoch in (0, 1, 2, 3)] == [1.0, 0.5, 2.0, 2.0]


@pytest.mark.parametrize(
    ("shape", "teacher_layers"),
    [
        # s (T - 1) / (S - 1), rounded, a half to the deeper layer
        ((4, 3), [0, 2, 3]),  # 0, 1.5, 3
        ((3, 4), [0, 1, 1, 2]),  # 0, 0.67, 1.33, 2
        ((5, 2), [0, 4]),
        ((1, 1), [0]),
        ((2, 3), [0, 1, 1]),  # 0, 0.5, 1
        ((6, 3), [0, 3, 5]),  # 0, 2.5, 5
        ((4, 4), [0, 1, 2, 3]),
        ((1, 3), [0, 0, 0]),
        ((3, 1), [2]),  # a single student layer: the deepest
    ],
)
def test_same_depth(shape: tuple[int, int], teacher_layers: list[int]) -> None:
    weights = same_depth(shape)
    for s, t in enumerate(teacher_layers):
        expected = torch.zeros(shape[0])
        expected[t] = 1 / shape[1]
        torch.testing.assert_close(weights[:, s], expected)


def test_one_pair() -> None:
    assert one_pair((2, 3), 1, 0).tolist() == [[0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("teacher", "student", "logits_pair", "expected"),
    [
        ((8, 4, 2, 1), (8, 4, 1), False, {"middle": (2, 1), "last": (3, 2), "last_map": (2, 1)}),
        ((8, 4, 2, 1), (8, 4, 1), True, {"middle": (1, 1), "last": (2, 1), "last_map": (2, 1)}),  # the logits are no hint
        ((1, 1), (8, 1), False, {"middle": (1, 1), "last": (1, 1), "last_map": (1, 0)}),  # the last where there is no map
    ],
)
def test_selected_pair_by_place(
    teacher: tuple[int, ...], student: tuple[int, ...], logits_pair: bool, expected: dict[str, tuple[int, int]]
) -> None:
    layers = [[LayerShape(str(i), 2, side, side) for i, side in enumerate(sides)] for sides in (teacher, student)]
    plan = pair_plan(*layers, logits_pair=logits_pair)
    assert {which: selected_pair(plan, which) for which in expected} == expected


def test_random_point_belongs_to_its_generator() -> None:
    one, again, other = (random_point((T, S), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(random_point((T, S), generator), one)
    assert not torch.equal(random_point((T, S), generator), one)  # it moves on


def test_random_point_is_uniform_on_the_simplex() -> None:
    # Uniform on a simplex of n = 4 corners: each weight has mean 1/n and, as a Beta(1, n - 1), P(weight > x) = (1 - x)^(n-1).
    generator = torch.Generator().manual_seed(0)
    points = torch.stack([random_point((2, 2), generator) for _ in range(4000)])
    torch.testing.assert_close(points.sum((1, 2)), torch.ones(4000))
    assert (points >= 0).all()
    deviation = 4000**-0.5  # of a share of 4000 draws, at most half of this
    torch.testing.assert_close(points.mean(0), torch.full((2, 2), 0.25), rtol=0, atol=2 * deviation)
    torch.testing.assert_close((points > 0.5).float().mean(0), torch.full((2, 2), 0.5**3), rtol=0, atol=2 * deviation)


def test_information_flow_over_served_pairs_still_fades() -> None:
    flow = InformationFlow(same_depth((3, 3)) * torch.tensor([[1.0], [1], [0]]), start=100, decay=0.7)
    for epoch in (0, 10, 30):
        torch.testing.assert_close(flow.weights(epoch).sum(), torch.tensor(1.0))
        unnormalised = flow.weights(epoch) * flow.total(epoch)
        torch.testing.assert_close(unnormalised.diagonal(), torch.tensor([100 * 0.7**epoch, 100 * 0.7**epoch, 0]))


def seeded(epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(epoch)


def test_random_layers_are_one_for_each_student_layer_in_the_teachers_order_and_drawn_anew() -> None:
    weighting = RandomLayers(torch.ones(5, 3), logits=False, chance=seeded)
    drawn = torch.stack([weighting.weights(epoch) for epoch in range(200)])
    assert torch.equal(drawn.sum(1), torch.full((200, 3), 1 / 3))  # one teacher layer each
    layers = drawn.argmax(1)
    assert (layers.diff(dim=1) > 0).all()  # in order, and no layer twice
    assert len(layers.unique(dim=0)) == 10  # every choice of three out of five
    assert torch.equal(weighting.weights(7), drawn[7])  # whenever it is asked


def test_random_layers_repeat_where_the_teacher_has_too_few_and_leave_out_what_is_not_served() -> None:
    few = torch.stack([RandomLayers(torch.ones(2, 5), logits=False, chance=seeded).weights(epoch) for epoch in range(50)])
    assert torch.equal(few.sum(1), torch.full((50, 5), 0.2)) and (few.argmax(1).diff(dim=1) >= 0).all()
    served = torch.tensor([[1.0, 0], [0, 0], [0, 0]])  # most draws have no pair that is served
    for epoch in range(20):
        assert torch.equal(RandomLayers(served, logits=False, chance=seeded).weights(epoch), served)


@pytest.mark.parametrize("shape", [(4, 3), (1, 1)])
def test_random_layers_keep_the_pair_of_the_logits(shape: tuple[int, int]) -> None:
    weighting = RandomLayers(torch.ones(shape), logits=True, chance=seeded)
    for epoch in range(20):
        weights = weighting.weights(epoch)
        assert weights[-1, -1] == pytest.approx(1 / shape[1])
        assert weights[-1, :-1].sum() == weights[:-1, -1].sum() == 0  # the logits are compared with each other only
