"""What is due at a step of a trial: a pure function of its settings and the step's number."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from kd_hpo.config.pairs import GradientBalanced, Pairs, PairsFirst
from kd_hpo.config.weightings import Learning

Stage = Literal["all", "pairs", "task"]
"""Which losses a step has: all, the pairs alone, or labels and logits without pairs."""


@dataclass(frozen=True)
class StepPlan:
    """What is due at one step."""

    stage: Stage
    starts_stage: bool
    """Whether the student's optimiser and learning rate start anew before it."""
    learns: bool
    """Whether lambda is updated."""
    records: bool
    """Whether the direction of the hypergradient has to see the step."""
    measures: bool
    """Whether the balance measures the gradients."""
    held: bool
    """Whether lambda stands still from this step to the end; always, where it is not learned."""
    weighted_only: bool
    """Whether pairs without weight are left out of the losses."""
    measures_weighted_only: bool
    """Whether pairs without weight are left out of the measure."""

    @property
    def remembers(self) -> bool:
        """Whether the student just before the step is needed after it."""
        return self.learns or self.records or self.measures


@dataclass(frozen=True)
class Schedule:
    """The plan of each step of a trial.

    pairs     settings of the pairs; None for a trial without any
    learning  how lambda moves; None where it is not learned
    records   whether the direction has to see a step that so many others follow before the next update of lambda
    """

    steps: int
    """Of the whole trial."""
    pairs: Pairs | None = None
    learning: Learning | None = None
    records: Callable[[int], bool] = lambda ahead: False

    @property
    def steps_of_pairs(self) -> int:
        """How many steps, from the first one, have the pairs alone."""
        stages = self.pairs.stages if self.pairs else None
        return ceil(stages.share * self.steps) if isinstance(stages, PairsFirst) else 0

    def steps_of_stage(self, step: int) -> int:
        """How many steps the stage has that the step belongs to."""
        first = self.steps_of_pairs
        return first if step < first else self.steps - first

    def at(self, step: int) -> StepPlan:
        stage, held = self.stage(step), self.held(step)
        learns = stage != "task" and self._learns(step)
        records = self.learning is not None and not held and stage != "task" and self.records(-step % self.learning.every)
        rests = self.learning is not None and bool(step % self.learning.idle_every) and not (learns or records)
        return StepPlan(
            stage=stage,
            starts_stage=bool(step) and step == self.steps_of_pairs,
            learns=learns,
            records=records,
            measures=stage != "task" and self._measures(step),
            held=held,
            weighted_only=self.learning is not None and (held or rests or self._closed(step)),
            measures_weighted_only=self.learning is not None and held,
        )

    def stage(self, step: int) -> Stage:
        if self.pairs is None:
            return "task"
        return "pairs" if step < self.steps_of_pairs else "task" if self.steps_of_pairs else "all"

    def held(self, step: int) -> bool:
        return self.learning is None or step >= (1 - self.learning.hold) * self.steps

    @property
    def updates(self) -> int:
        """How often lambda moves in the whole trial."""
        return sum(self.at(step).learns for step in range(self.steps)) if self.learning else 0

    def _learns(self, step: int) -> bool:
        if self.learning is None or step % self.learning.every or self.held(step):
            return False
        return self.learning.warmup * self.steps <= step

    def _closed(self, step: int) -> bool:
        """Whether lambda keeps its start for so long that the pairs which that leaves out need not be computed yet."""
        learning = self.learning
        return learning is not None and learning.start is not None and step < (learning.warmup - learning.opening) * self.steps

    def _measures(self, step: int) -> bool:
        """At every step until enough measures stand, then at some."""
        balance = self.pairs.balance if self.pairs else None
        return isinstance(balance, GradientBalanced) and (step < balance.measures or step % balance.every == 0)
