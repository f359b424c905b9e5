"""Which pairs of a plan are computed together, and where their regressors' numbers stand: geometry, worked out once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from kd_hpo.core.plan import Group, PairPlan, Size

Wanted = tuple[tuple[bool, ...], ...]
"""Which pairs of T x S are wanted."""

WIDEST = 256
"""Channels of the student in a block of several layers: the second moments in it are of each channel with each."""


@dataclass(frozen=True)
class Packed:
    """Some layers of the student at one resolution, and all those of the teacher that any of them is compared with there.

    J channels of the former, side by side, and C of the latter.
    """

    plan: PairPlan
    groups: tuple[Group, ...]

    @property
    def size(self) -> Size:
        return self.groups[0].size

    @property
    def wide(self) -> bool:
        """Whether this is one layer whose second moments are more work than its predictions."""
        return _wide(self.plan, self.groups[0])

    @cached_property
    def teachers(self) -> list[int]:
        return [t for t in self.plan.blocks[self.size] if any(t in g.teachers for g in self.groups)]

    @cached_property
    def rows(self) -> list[range]:
        """The places of the channels of each layer of the student among the J."""
        return _spans([self.plan.student[g.student].channels for g in self.groups])

    @cached_property
    def columns(self) -> dict[int, range]:
        """The places of the channels of each layer of the teacher among the C."""
        return dict(zip(self.teachers, _spans([self.plan.teacher[t].channels for t in self.teachers]), strict=True))

    @cached_property
    def shape(self) -> tuple[int, int]:
        """The numbers of channels (J, C) of the student and of the teacher."""
        return self.rows[-1].stop, self.columns[self.teachers[-1]].stop

    def columns_of(self, teachers: Sequence[int]) -> list[int]:
        return [column for t in teachers for column in self.columns[t]]

    def channels_of(self, teachers: Sequence[int]) -> tuple[int, ...]:
        """The places of some of the teacher's layers among all channels of the resolution's targets."""
        return self.plan.channels_of(Group(0, self.size, tuple(teachers)))

    def part(self, wanted: Wanted | None) -> tuple[list[int], list[int]]:
        """The places of the student's layers that have a pair which is wanted, and the teacher's layers of those pairs."""
        places = [p for p, g in enumerate(self.groups) if wanted is None or any(wanted[t][g.student] for t in g.teachers)]
        students = [self.groups[p].student for p in places]
        return places, [t for t in self.teachers if wanted is None or any(wanted[t][s] for s in students)]


def packed(plan: PairPlan) -> list[Packed]:
    """Puts the plan's groups in blocks of one resolution, of at most WIDEST channels unless one layer alone has more."""
    return [Packed(plan, tuple(groups)) for groups in _packs(plan)]


def _packs(plan: PairPlan) -> Iterator[list[Group]]:
    for size in sorted(plan.sizes, reverse=True):
        at_size = [group for group in plan.groups if group.size == size]
        yield from ([group] for group in at_size if _wide(plan, group))
        block: list[Group] = []
        for group in (group for group in at_size if not _wide(plan, group)):
            if block and sum(plan.student[g.student].channels for g in (*block, group)) > WIDEST:
                yield block
                block = []
            block.append(group)
        if block:
            yield block


def _wide(plan: PairPlan, group: Group) -> bool:
    return plan.student[group.student].channels > sum(plan.teacher[t].channels for t in group.teachers)


def _spans(lengths: Sequence[int]) -> list[range]:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]
