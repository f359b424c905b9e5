"""Which pairs meet where, on an example worked out by hand."""

import pytest

from kd_hpo.core.plan import Group, LayerShape, PairPlan, pair_plan

TEACHER = [LayerShape("a", 2, 8, 8), LayerShape("b", 3, 4, 4), LayerShape("c", 4, 2, 2)]
STUDENT = [LayerShape("x", 5, 8, 8), LayerShape("y", 6, 4, 4)]


@pytest.fixture
def plan() -> PairPlan:
    return pair_plan(TEACHER, STUDENT)


def test_shape_is_teacher_first(plan: PairPlan) -> None:
    assert plan.shape == (3, 2)


def test_groups(plan: PairPlan) -> None:
    # x (8 x 8) meets a, b, c each at the teacher's own size; y (4 x 4) meets a and b at 4 x 4, and c at 2 x 2.
    assert set(plan.groups) == {
        Group(0, (8, 8), (0,)),
        Group(0, (4, 4), (1,)),
        Group(0, (2, 2), (2,)),
        Group(1, (4, 4), (0, 1)),
        Group(1, (2, 2), (2,)),
    }
    assert len(plan.groups) == 5


def test_blocks_hold_layers_in_order_of_depth(plan: PairPlan) -> None:
    assert plan.blocks == {(8, 8): (0,), (4, 4): (0, 1), (2, 2): (2,)}  # a is pooled to 4 x 4, b has it itself


def test_channels_of_a_group(plan: PairPlan) -> None:
    # At 4 x 4 the block holds a's two channels, then b's three. y reads both; x reads b alone, which ends the block.
    assert plan.channels_of(Group(1, (4, 4), (0, 1))) == (0, 1, 2, 3, 4)
    assert plan.channels_of(Group(0, (4, 4), (1,))) == (2, 3, 4)
    assert plan.channels_of(Group(0, (8, 8), (0,))) == (0, 1)


def test_every_pair_stands_in_one_group(plan: PairPlan) -> None:
    pairs = [(t, g.student) for g in plan.groups for t in g.teachers]
    assert sorted(pairs) == [(t, s) for t in range(3) for s in range(2)]


def test_each_side_is_the_smaller_one() -> None:
    plan = pair_plan([LayerShape("wide", 2, 4, 16)], [LayerShape("tall", 3, 16, 4), LayerShape("vector", 3, 1, 1)])
    assert plan.target_size(0, 0) == (4, 4)
    assert plan.target_size(0, 1) == (1, 1)
    assert plan.blocks == {(4, 4): (0,), (1, 1): (0,)}


def test_apart_each_teacher_layer_stays_at_its_own_size() -> None:
    plan = pair_plan([*TEACHER, LayerShape("d", 5, 4, 4)], STUDENT, meet=False)
    assert plan.target_size(0, 1) == (8, 8)  # though y is 4 x 4
    assert plan.blocks == {(8, 8): (0,), (4, 4): (1, 3), (2, 2): (2,)}
    assert plan.groups == tuple(Group(s, size, layers) for s in (0, 1) for size, layers in plan.blocks.items())
    assert plan.channels_of(Group(1, (4, 4), (1, 3))) == tuple(range(3 + 5))


def test_the_logits_pair_stands_in_no_group() -> None:
    teacher = [LayerShape("a", 2, 4, 4), LayerShape("logits", 10, 1, 1)]
    student = [LayerShape("x", 5, 4, 4), LayerShape("logits", 10, 1, 1)]
    plan = pair_plan(teacher, student, logits_pair=True)
    # Only (1, 1) is missing: the other pairs of both logits layers are like any.
    assert set(plan.groups) == {Group(0, (4, 4), (0,)), Group(0, (1, 1), (1,)), Group(1, (1, 1), (0,))}
    assert plan.blocks == {(4, 4): (0,), (1, 1): (0, 1)}
    assert pair_plan(teacher[1:], student[1:], logits_pair=True).groups == ()


def test_a_layer_reads_as_its_name_and_size() -> None:
    assert str(TEACHER[1]) == "b (3x4x4)"
