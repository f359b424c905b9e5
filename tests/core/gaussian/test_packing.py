"""Which pairs are computed together: every pair once, and each block's numbers where it says."""

import pytest

from kd_hpo.core.gaussian.packing import WIDEST, packed
from kd_hpo.core.plan import LayerShape, PairPlan, pair_plan


def plan(teacher: list[int], student: list[int], sides: list[int] | None = None) -> PairPlan:
    """Maps of so many channels; the student's of the sides given, else of 4 x 4."""
    own = sides or [4] * len(student)
    return pair_plan(
        [LayerShape(f"t{i}", c, 8, 8) for i, c in enumerate(teacher)],
        [LayerShape(f"s{i}", c, side, side) for i, (c, side) in enumerate(zip(student, own, strict=True))],
    )


@pytest.mark.parametrize(
    ("teacher", "student", "sides"),
    [([8, 6, 4], [3, 5, 2], [4, 4, 2]), ([300, 300], [200, 100, 90, 40], None), ([4, 2], [50, 3, 70], None), ([5], [5], None)],
)
def test_every_pair_is_in_one_block(teacher: list[int], student: list[int], sides: list[int] | None) -> None:
    of = plan(teacher, student, sides)
    pairs = [(t, group.student) for block in packed(of) for group in block.groups for t in group.teachers]
    assert sorted(pairs) == [(t, s) for t in range(len(teacher)) for s in range(len(student))]


def test_a_block_has_one_resolution_and_no_more_channels_than_are_worth_it() -> None:
    of = plan([300, 300], [200, 100, 90, 40], [4, 4, 4, 2])
    blocks = packed(of)
    for block in blocks:
        assert {group.size for group in block.groups} == {block.size}
        assert len(block.groups) == 1 or block.shape[0] <= WIDEST
    assert [[group.student for group in block.groups] for block in blocks] == [[0], [1, 2], [3]]  # 200 + 100 > 256 >= 100 + 90


def test_a_layer_that_is_wider_than_its_teachers_stands_alone() -> None:
    blocks = packed(plan([4, 2], [50, 3, 70]))
    assert [([group.student for group in block.groups], block.wide) for block in blocks] == [
        ([0], True),
        ([2], True),
        ([1], False),
    ]


def test_rows_and_columns_are_side_by_side() -> None:
    (block,) = packed(plan([8, 6], [3, 5]))
    assert block.shape == (8, 14)
    assert block.rows == [range(3), range(3, 8)]
    assert block.columns == {0: range(8), 1: range(8, 14)}
    assert block.columns_of([1, 0]) == [*range(8, 14), *range(8)]
    assert block.channels_of([1]) == tuple(range(8, 14))


def test_the_part_that_is_wanted_has_no_more_layers_than_its_pairs_need() -> None:
    (block,) = packed(plan([8, 6, 4], [3, 5]))
    assert block.part(None) == ([0, 1], [0, 1, 2])
    assert block.part(((False, False), (False, True), (False, False))) == ([1], [1])
    assert block.part(((False, True), (False, False), (True, False))) == ([0, 1], [0, 2])
    assert block.part(((False,) * 2,) * 3) == ([], [])
