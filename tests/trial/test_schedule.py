"""What is due at a step: known from settings and the step's number alone."""

from dataclasses import dataclass
from math import ceil

import pytest

from kd_hpo.config.pairs import GradientBalanced, Pairs, PairsFirst, Unbalanced
from kd_hpo.config.weightings import LearnedWeights, Learning
from kd_hpo.trial.schedule import MEASURES, Schedule, StepPlan

STEPS = 100
EACH_WAY = ((0.5, 0.5), (0.5, 0.5))


@dataclass
class Look:
    """A direction that sees the last `records` steps before an update."""

    records: int = 0
    after_step: bool = False

    def needs(self, ahead: int) -> bool:
        return ahead < self.records


def plans(pairs: Pairs | None = None, learning: Learning | None = None, look: Look = Look()) -> list[StepPlan]:  # noqa: B008
    schedule = Schedule(STEPS, pairs, learning, look if learning else None)
    return [schedule.at(step) for step in range(STEPS)]


def due(found: list[StepPlan], name: str) -> list[int]:
    return [step for step, plan in enumerate(found) if getattr(plan, name)]


def test_trial_without_pairs_has_the_task_alone_at_every_step() -> None:
    (plan,) = set(plans())
    assert plan == StepPlan("task", False, "", False, False, False, True, False, False)
    assert not plan.remembers


def test_weights_that_do_not_learn_are_held_and_computed_whole() -> None:
    found = plans(Pairs(balance=Unbalanced()))
    assert {plan.stage for plan in found} == {"all"}
    assert due(found, "held") == list(range(STEPS))
    assert not any(due(found, name) for name in ("learns", "records", "measures", "weighted_only", "measures_weighted_only"))


def test_lambda_moves_at_every_so_many_step_between_warmup_and_hold() -> None:
    found = plans(Pairs(), LearnedWeights(every=10, warmup=0.15, hold=0.4))
    assert due(found, "moves") == [20, 30, 40, 50]
    assert due(found, "held") == list(range(60, 100))
    assert Schedule(STEPS, Pairs(), LearnedWeights(every=10, warmup=0.15, hold=0.4), Look()).updates == 4


def test_hypergradients_are_gathered_before_lambda_moves_where_it_moves_on_evidence() -> None:
    learning = LearnedWeights(every=10, warmup=0.35, hold=0.4, gather=0.1)
    assert due(plans(Pairs(), learning), "learns") == [10, 20, 30, 40, 50]
    assert due(plans(Pairs(), learning), "moves") == [40, 50]
    schedule = Schedule(STEPS, Pairs(), learning, Look())
    assert (schedule.updates, schedule.gathered) == (2, 5)
    averaged = LearnedWeights(every=10, warmup=0.35, hold=0.4, evidence=False)
    assert due(plans(Pairs(), averaged), "learns") == [40, 50]
    closed = LearnedWeights(every=10, warmup=0.35, hold=0.4, gather=0.1, start=EACH_WAY, opening=0.2)
    assert due(plans(Pairs(), closed), "learns") == [20, 30, 40, 50]  # what the start leaves out is open from 15 on


@pytest.mark.parametrize(("after_step", "expected"), [(False, "before"), (True, "after")])
def test_direction_says_which_student_the_hypergradient_looks_from(after_step: bool, expected: str) -> None:
    found = plans(Pairs(), LearnedWeights(every=50, warmup=0.0, hold=0.1), Look(after_step=after_step))
    assert [(step, plan.learns) for step, plan in enumerate(found) if plan.learns] == [(0, expected), (50, expected)]


def test_held_pairs_without_weight_are_left_out_and_not_measured() -> None:
    found = plans(Pairs(), LearnedWeights(every=10, hold=0.4))
    assert due(found, "weighted_only") == due(found, "measures_weighted_only") == list(range(60, 100))


def test_direction_sees_the_steps_before_an_update_and_none_once_lambda_is_held() -> None:
    found = plans(Pairs(), LearnedWeights(every=10, warmup=0.0, hold=0.75), Look(3))
    assert due(found, "records") == [0, 8, 9, 10, 18, 19, 20]


@pytest.mark.parametrize(("measures", "every"), [(4, 20), (1, 25), (7, 7)])
def test_balance_is_measured_where_pairs_are_switched_on_and_then_at_some(measures: int, every: int) -> None:
    found = plans(Pairs(balance=GradientBalanced(measures=measures, every=every)))
    assert due(found, "measures") == sorted({measures - 1, *range(every * ((measures - 1 + every - 1) // every), STEPS, every)})


def test_balance_is_measured_so_many_times_a_trial_where_no_interval_is_given() -> None:
    found = plans(Pairs(balance=GradientBalanced(measures=5)))
    assert due(found, "measures") == [4, *range(6, STEPS, STEPS // MEASURES)]
    pairs = Pairs(balance=GradientBalanced(measures=5))
    late = [step for step in range(200) if Schedule(100 * MEASURES, pairs).at(step).measures]
    assert late == [4, 9, 19, 39, 79, 100]  # twice as late each, until the interval is reached


def test_start_keeps_left_out_pairs_closed_until_shortly_before_lambda_moves() -> None:
    learning = LearnedWeights(every=10, warmup=0.5, hold=0.2, opening=0.2, start=EACH_WAY)
    assert due(plans(Pairs(), learning), "weighted_only") == [*range(30), *range(80, 100)]


def test_idle_pairs_rest_between_but_never_where_lambda_moves_or_the_direction_looks() -> None:
    learning = LearnedWeights(every=4, warmup=0.0, hold=0.0, idle_every=3)
    resting = due(plans(Pairs(), learning, Look(2)), "weighted_only")
    assert resting == [step for step in range(STEPS) if step % 3 and step % 4 and (step + 1) % 4]


@pytest.mark.parametrize("share", [0.3, 0.305])
def test_pairs_first_has_two_stages_and_the_second_starts_anew(share: float) -> None:
    found = plans(Pairs(stages=PairsFirst(share=share)), LearnedWeights(every=5, warmup=0.0, hold=0.1))
    first = ceil(share * STEPS)
    assert [plan.stage for plan in found] == ["pairs"] * first + ["task"] * (STEPS - first)
    assert due(found, "starts_stage") == [first]
    assert max(due(found, "learns") + due(found, "measures")) < first
    schedule = Schedule(STEPS, Pairs(stages=PairsFirst(share=share)))
    assert (schedule.steps_of_stage(0), schedule.steps_of_stage(first)) == (first, STEPS - first)
