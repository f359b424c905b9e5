"""What is due at a step of a trial: a pure function of its settings and the step's number."""

from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol

from kd_hpo.config.pairs import GradientBalanced, Pairs, PairsFirst
from kd_hpo.config.weightings import Learning

MEASURES = 35
"""Of the balance in a trial, where its settings name no interval."""

Stage = Literal["all", "pairs", "task"]
"""Which losses a step has: all, the pairs alone, or labels and logits without pairs."""


class Look(Protocol):
    """The part of a direction of the hypergradient that says what it has to see (`kd_hpo.core.directions.Direction`)."""

    after_step: bool

    def needs(self, ahead: int) -> bool: ...


@dataclass(frozen=True)
class StepPlan:
    """The plan of one step of a trial: what is due at it."""

    stage: Stage
    starts_stage: bool
    """Whether the student's optimiser and learning rate start anew before it."""
    learns: Literal["", "before", "after"]
    """Whether the weighting hears a hypergradient, and which student that looks from: the one before the step, or after it."""
    moves: bool
    """Whether lambda moves by the hypergradient; else it is gathered only."""
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
    def looks(self) -> bool:
        """Whether a direction looks at the step."""
        return bool(self.learns) or self.records

    @property
    def remembers(self) -> bool:
        """Whether the student just before the step is needed after it."""
        return self.looks


@dataclass(frozen=True)
class Schedule:
    """The plan of each step of a trial.

    pairs     settings of the pairs; None for a trial without any
    learning  how lambda moves; None where it is not learned
    look      the direction of its hypergradient, which says what it has to see; None with `learning`
    """

    steps: int
    """Of the whole trial."""
    pairs: Pairs | None = None
    learning: Learning | None = None
    look: Look | None = None

    @property
    def steps_of_pairs(self) -> int:
        """The number of steps, from the first one, that have the pairs alone."""
        stages = self.pairs.stages if self.pairs else None
        return ceil(stages.share * self.steps) if isinstance(stages, PairsFirst) else 0

    def steps_of_stage(self, step: int) -> int:
        """Tells how many steps the stage has that a step belongs to."""
        first = self.steps_of_pairs
        return first if step < first else self.steps - first

    def at(self, step: int) -> StepPlan:
        stage, held = self.stage(step), self.held(step)
        with_pairs, learning, look = stage != "task", self.learning, self.look
        moves = with_pairs and self._moves(step)
        learns = moves or (with_pairs and self._gathers(step))
        records = with_pairs and not held and learning is not None and look is not None and look.needs(-step % learning.every)
        rests = learning is not None and bool(step % learning.idle_every) and not (learns or records)
        return StepPlan(
            stage=stage,
            starts_stage=bool(step) and step == self.steps_of_pairs,
            learns="" if not learns or look is None else "after" if look.after_step else "before",
            moves=moves,
            records=records,
            measures=with_pairs and self._measures(step),
            held=held,
            weighted_only=learning is not None and (held or rests or self._closed(step)),
            measures_weighted_only=learning is not None and held,
        )

    def stage(self, step: int) -> Stage:
        if self.pairs is None:
            return "task"
        return "pairs" if step < self.steps_of_pairs else "task" if self.steps_of_pairs else "all"

    def held(self, step: int) -> bool:
        return self.learning is None or step >= (1 - self.learning.hold) * self.steps

    @property
    def updates(self) -> int:
        """The number of times that lambda moves in the whole trial."""
        return sum(self.stage(step) != "task" and self._moves(step) for step in range(self.steps)) if self.learning else 0

    @property
    def gathered(self) -> int:
        """The number of hypergradients that the weighting hears in the whole trial, those that it does not move by among them."""
        return sum(self.stage(step) != "task" and (self._moves(step) or self._gathers(step)) for step in range(self.steps))

    def _moves(self, step: int) -> bool:
        if self.learning is None or step % self.learning.every or self.held(step):
            return False
        return self.learning.warmup * self.steps <= step

    def _gathers(self, step: int) -> bool:
        learning = self.learning
        if learning is None or learning.gathers is None or step % learning.every or self._closed(step):
            return False
        return learning.gathers <= step / self.steps < learning.warmup

    def _closed(self, step: int) -> bool:
        """Whether lambda keeps its start for so long that the pairs which that leaves out need not be computed yet."""
        learning = self.learning
        return learning is not None and learning.start is not None and step < (learning.warmup - learning.opening) * self.steps

    def _measures(self, step: int) -> bool:
        """Where the pairs are switched on, then at every so many-th step.

        Where the settings name no interval it is a share of the trial, and before it is reached, measures come at steps twice as
        late each: norms move fastest while regressors are new.
        """
        balance = self.pairs.balance if self.pairs else None
        if not isinstance(balance, GradientBalanced) or step < balance.measures - 1:
            return False
        times, rest = divmod(step + 1, balance.measures)
        every = balance.every or max(1, self.steps // MEASURES)
        doubled = balance.every is None and step < every and rest == 0 and times & (times - 1) == 0
        return step == balance.measures - 1 or doubled or step % every == 0
