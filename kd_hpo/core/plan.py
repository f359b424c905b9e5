"""Which pairs are compared at which resolution: geometry only, worked out once, before any batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

Size = tuple[int, int]


@dataclass(frozen=True)
class LayerShape:
    """A feature read as a map (C, H, W): a vector is a map of 1 x 1, tokens are their grid, or 1 x 1 where they have none."""

    name: str
    channels: int
    height: int
    width: int
    channels_last: bool = False
    """Whether the feature itself is (B, H, W, C)."""

    def __str__(self) -> str:
        return f"{self.name} ({self.channels}x{self.height}x{self.width})"


@dataclass(frozen=True)
class Group:
    """The pairs of one student layer whose targets have one resolution: one call serves them all."""

    student: int
    size: Size
    teachers: tuple[int, ...]


@dataclass(frozen=True)
class PairPlan:
    """T teacher layers, S student layers, and at which resolution each pair reads its teacher layer."""

    teacher: tuple[LayerShape, ...]
    student: tuple[LayerShape, ...]
    logits_pair: bool = False
    """Whether the last teacher and the last student layer are logits, compared by the categorical loss."""
    meet: bool = True
    """Whether both features of a pair are averaged to the smaller height and width of the two; else each stays as it is."""
    compared: frozenset[tuple[int, int]] | None = None
    """The pairs (t, s) that are compared at all; None compares every one."""
    examples: int = 0
    """The number of training images, for a loss that keeps a memory of them."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.teacher), len(self.student)

    def target_size(self, t: int, s: int) -> Size:
        a, b = self.teacher[t], self.student[s]
        return (min(a.height, b.height), min(a.width, b.width)) if self.meet else self._native(t)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The pairs that are compared, but that of the logits, by student layer and resolution."""
        if self.compared is None:
            return self._all_groups
        chosen = [
            Group(g.student, g.size, tuple(t for t in g.teachers if (t, g.student) in self.compared)) for g in self._all_groups
        ]
        return tuple(group for group in chosen if group.teachers)

    @cached_property
    def sizes(self) -> frozenset[Size]:
        """The resolutions at which a pair is compared."""
        return frozenset(group.size for group in self.groups)

    @cached_property
    def _all_groups(self) -> tuple[Group, ...]:
        found: dict[tuple[int, Size], list[int]] = {}
        last = (len(self.teacher) - 1, len(self.student) - 1)
        for s in range(len(self.student)):
            for t in range(len(self.teacher)):
                if not (self.logits_pair and (t, s) == last):
                    found.setdefault((s, self.target_size(t, s)), []).append(t)
        return tuple(Group(s, size, tuple(teachers)) for (s, size), teachers in found.items())

    @cached_property
    def blocks(self) -> dict[Size, tuple[int, ...]]:
        """The teacher layers of all pairs at each resolution; a batch of targets is one tensor a resolution."""
        wanted: dict[Size, set[int]] = {}
        for group in self._all_groups:
            wanted.setdefault(group.size, set()).update(group.teachers)
        # In order of depth: where maps shrink with depth, the channels that any group reads stand side by side.
        return {size: tuple(sorted(layers)) for size, layers in wanted.items()}

    def channels_of(self, group: Group) -> tuple[int, ...]:
        """The places of the group's teacher channels in its block."""
        start, spans = 0, dict[int, range]()
        for t in self.blocks[group.size]:
            spans[t] = range(start, start + self.teacher[t].channels)
            start += self.teacher[t].channels
        return tuple(c for t in group.teachers for c in spans[t])

    def _native(self, t: int) -> Size:
        return self.teacher[t].height, self.teacher[t].width


def pair_plan(
    teacher: Sequence[LayerShape], student: Sequence[LayerShape], *, logits_pair: bool = False, meet: bool = True
) -> PairPlan:
    return PairPlan(tuple(teacher), tuple(student), logits_pair, meet)
