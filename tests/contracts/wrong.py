"""Losses, directions and steps that are wrong on purpose, each with the tests of its contract that fail, and no others.

`test_wrong.py` runs this file as its author would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kd_hpo.core.comparisons import Comparison
from kd_hpo.core.directions import GradientFlow, InnerStep, Share
from kd_hpo.core.gradient_scaling import scaled_identity
from kd_hpo.core.learned import Learned
from kd_hpo.core.maps import as_map, pooled
from kd_hpo.core.params import Params, scaled
from kd_hpo.core.plan import LayerShape, PairPlan, Size
from kd_hpo.core.simplex import mirror_descent
from kd_hpo.core.tasks import Classification, Reduction
from kd_hpo.core.weightings import Constant
from kd_hpo.testing import (
    DirectionContract,
    LogitLossContract,
    PairLossContract,
    SimplexUpdateContract,
    TaskContract,
    WeightingContract,
)

# Pair losses: a regressor to the teacher's channel means, right but for what a subclass does --------------------------------


class Means(nn.Module):
    """The squared error of the teacher's channel means, regressed linearly on those of the student, one map for each pair."""

    def __init__(self, plan: PairPlan, generator: torch.Generator) -> None:
        super().__init__()
        self.plan = plan
        self.maps = nn.ParameterDict()
        for group in plan.groups:
            for t in group.teachers:
                shape = plan.teacher[t].channels, plan.student[group.student].channels
                self.maps[f"{t} {group.student}"] = nn.Parameter(0.5 * torch.randn(shape, generator=generator))

    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        found = []
        for group, weight in zip(self.plan.groups, weights, strict=True):
            rows = pooled(as_map(features[group.student], self.plan.student[group.student]), group.size).mean(1)
            layers = self.plan.blocks[group.size]
            parts = blocks[group.size].split([self.plan.teacher[t].channels for t in layers], 2)
            teacher = {t: part.mean(1) for t, part in zip(layers, parts, strict=True)}
            columns = []
            for place, t in enumerate(group.teachers):
                own = None if weight is None else weight[..., place]
                columns.append(self.loss(rows, self.maps[f"{t} {group.student}"], teacher[t], own))
            found.append(torch.stack(columns, 1))
        return found

    def loss(self, student: Tensor, regressor: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        """(B, C_s), (C_t, C_s), (B, C_t) and None, () or (B,) -> (B,)"""
        if weight is not None:
            student = scaled_identity(student, weight.reshape(-1, 1))
        return self.distance(student @ regressor.t(), teacher.detach())

    def distance(self, predicted: Tensor, teacher: Tensor) -> Tensor:
        return (predicted - teacher).square().mean(1)


@dataclass(frozen=True)
class Loss:
    kind: type[Means] = Means
    meet: ClassVar[bool] = True
    standardised: ClassVar[bool] = True

    def serves(self, teacher: LayerShape, student: LayerShape, size: Size) -> str | None:
        return None

    def module(self, plan: PairPlan, generator: torch.Generator) -> nn.Module:
        return self.kind(plan, generator)


class TestRight(PairLossContract):
    loss = Loss
    fails: ClassVar[set[str]] = set()


class GradientIntoTheTeacher(Means):
    def loss(self, student: Tensor, regressor: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        if weight is not None:
            student = scaled_identity(student, weight.reshape(-1, 1))
        return self.distance(student @ regressor.t(), teacher)


class TestGradientIntoTheTeacher(PairLossContract):
    loss = lambda: Loss(GradientIntoTheTeacher)  # noqa: E731
    fails: ClassVar[set[str]] = {"test_no_gradient_flows_into_the_teacher"}


class WeightsChangeTheValue(Means):
    def loss(self, student: Tensor, regressor: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        return self.distance(student @ regressor.t(), teacher.detach()) * (1 if weight is None else weight)


class TestWeightsChangeTheValue(PairLossContract):
    loss = lambda: Loss(WeightsChangeTheValue)  # noqa: E731
    fails: ClassVar[set[str]] = {
        "test_means_and_their_gradients_are_those_of_the_losses",
        "test_weights_leave_values_and_regressors_alone",
        "test_a_pair_of_weight_zero_trains_its_regressor_only",
    }


class RegressorsGetWeightedGradients(Means):
    def loss(self, student: Tensor, regressor: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        loss = self.distance(student @ regressor.t(), teacher.detach())
        return loss if weight is None else scaled_identity(loss, weight)


class TestRegressorsGetWeightedGradients(PairLossContract):
    loss = lambda: Loss(RegressorsGetWeightedGradients)  # noqa: E731
    fails: ClassVar[set[str]] = {
        "test_weights_leave_values_and_regressors_alone",
        "test_a_pair_of_weight_zero_trains_its_regressor_only",
    }


class WeightsAreIgnored(Means):
    def loss(self, student: Tensor, regressor: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
        return self.distance(student @ regressor.t(), teacher.detach())


class TestWeightsAreIgnored(PairLossContract):
    loss = lambda: Loss(WeightsAreIgnored)  # noqa: E731
    fails: ClassVar[set[str]] = {
        "test_a_pairs_weight_multiplies_its_gradient",
        "test_the_students_gradient_is_linear_in_the_weights",
        "test_a_pair_of_weight_zero_trains_its_regressor_only",
    }


class NothingAtZero(Means):
    """The root of a squared distance has no slope at 0."""

    def distance(self, predicted: Tensor, teacher: Tensor) -> Tensor:
        return (predicted / predicted.norm(dim=1, keepdim=True) - teacher).square().mean(1)


class TestNothingAtZero(PairLossContract):
    loss = lambda: Loss(NothingAtZero)  # noqa: E731
    fails: ClassVar[set[str]] = {"test_gradients_are_finite_for_dead_and_equal_features"}


class RunningStatistics(Means):
    mean: Tensor

    def __init__(self, plan: PairPlan, generator: torch.Generator) -> None:
        super().__init__(plan, generator)
        self.register_buffer("mean", torch.zeros(()))

    def distance(self, predicted: Tensor, teacher: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * predicted.detach().mean()
        return (predicted - self.mean - teacher).square().mean(1)


class TestRunningStatistics(PairLossContract):
    loss = lambda: Loss(RunningStatistics)  # noqa: E731
    fails: ClassVar[set[str]] = {
        "test_a_pair_depends_on_its_own_layers_alone",
        "test_matrix_is_the_mean_over_examples",
        "test_means_and_their_gradients_are_those_of_the_losses",
        "test_pairs_that_are_not_needed_may_be_left_out",
        "test_forward_moves_nothing",
        "test_weights_leave_values_and_regressors_alone",
        "test_a_pairs_weight_multiplies_its_gradient",
        "test_the_students_gradient_is_linear_in_the_weights",
        "test_weights_of_examples_that_are_equal_are_the_pairs",
        "test_forward_mode_is_a_central_difference",
        "test_a_squared_slope_is_that_of_the_gradient_along_the_same_random_direction",
        "test_a_plan_of_some_pairs_compares_them_alone",
        "test_learns",
    }


class StateOfItsOwn(Means):
    """A number that it draws elsewhere than from its generator, and keeps where no state_dict has it."""

    def __init__(self, plan: PairPlan, generator: torch.Generator) -> None:
        super().__init__(plan, generator)
        self.shift = torch.rand(()).item()

    def distance(self, predicted: Tensor, teacher: Tensor) -> Tensor:
        return (predicted - self.shift - teacher).square().mean(1)


class TestStateOfItsOwn(PairLossContract):
    loss = lambda: Loss(StateOfItsOwn)  # noqa: E731
    fails: ClassVar[set[str]] = {"test_single_precision_is_close_to_double", "test_resumes_from_its_state"}


class _Uphill(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


class WrongSign(Means):
    """Of a backward written by hand; squared, a slope has no sign."""

    def distance(self, predicted: Tensor, teacher: Tensor) -> Tensor:
        return _Uphill.apply((predicted - teacher).square().mean(1))  # type: ignore[no-any-return]


class TestWrongSign(PairLossContract):
    loss = lambda: Loss(WrongSign)  # noqa: E731
    fails: ClassVar[set[str]] = {"test_learns"}


class OthersLayers(Means):
    def forward(
        self, features: Sequence[Tensor], blocks: Mapping[Size, Tensor], weights: Sequence[Tensor | None]
    ) -> list[Tensor]:
        found = super().forward(features, blocks, weights)
        return [losses + 0.1 * found[0].detach().mean() for losses in found]


class TestOthersLayers(PairLossContract):
    loss = lambda: Loss(OthersLayers)  # noqa: E731
    fails: ClassVar[set[str]] = {
        "test_a_pair_depends_on_its_own_layers_alone",
        "test_forward_mode_is_a_central_difference",
    }


def two_rows(rows: Tensor) -> Tensor:  # a summary that says nothing at one position: (B, N, C) -> (B, 2)
    return (rows - rows.mean(1, keepdim=True)).square().mean((1, 2), keepdim=True).squeeze(2).expand(-1, 2)


def difference(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean(-1)


class TestServesWhatItCannotCompare(PairLossContract):
    loss = lambda: Comparison(two_rows, difference, meet=True)  # noqa: E731
    fails: ClassVar[set[str]] = {
        "test_compares_any_two_layers_or_says_why_not",
        "test_a_pair_depends_on_its_own_layers_alone",
        "test_a_plan_of_some_pairs_compares_them_alone",
    }


EVERY = {name for name in vars(PairLossContract) if name.startswith("test_")}


class TestNoLoss(PairLossContract):
    loss = dict  # type: ignore[assignment]
    fails: ClassVar[set[str]] = EVERY


class TestForgotten(PairLossContract):
    fails: ClassVar[set[str]] = EVERY


# Directions ------------------------------------------------------------------------------------------------------------------


class Backwards(GradientFlow):
    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        return [(last, scaled(outer_gradient, -1.0))]


class TestBackwards(DirectionContract):
    direction = Backwards
    fails: ClassVar[set[str]] = {"test_q_never_turns_against_the_outer_gradient"}


class UnitLength(GradientFlow):
    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        return [(last, {name: g.sign() for name, g in outer_gradient.items()})]


class TestUnitLength(DirectionContract):
    direction = UnitLength
    fails: ClassVar[set[str]] = {"test_q_is_linear_in_the_outer_gradient"}


class Forgetful(GradientFlow):
    """It counts the steps that it has seen, past the end of an epoch, and saves nothing."""

    steps = 0

    def needs(self, ahead: int) -> bool:
        return True

    def record(self, step: InnerStep) -> None:
        self.steps += 1

    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        return [(last, scaled(outer_gradient, 1.0 / self.steps))]


class TestForgetful(DirectionContract):
    direction = Forgetful
    fails: ClassVar[set[str]] = {"test_resumes_at_the_start_of_an_epoch_from_its_state"}


class InPlace(GradientFlow):
    def __call__(self, outer_gradient: Params, last: InnerStep) -> list[Share]:
        return [(last, {name: g.mul_(2) for name, g in outer_gradient.items()})]


class TestInPlace(DirectionContract):
    direction = InPlace
    fails: ClassVar[set[str]] = {"test_inputs_are_left_alone"}


# Steps on the simplex --------------------------------------------------------------------------------------------------------

EVERY_MOVE = {
    "test_moves_weight_against_the_direction",
    "test_repeated_steps_find_the_best_corner",
}


def uphill(weights: Tensor, direction: Tensor, step: float) -> Tensor:
    return mirror_descent(weights, -direction, step)


class TestUphill(SimplexUpdateContract):
    update = uphill
    fails: ClassVar[set[str]] = EVERY_MOVE


def plain_step(weights: Tensor, direction: Tensor, step: float) -> Tensor:
    return weights - step * (direction - direction.mean())


class TestPlainStep(SimplexUpdateContract):
    update = plain_step
    fails: ClassVar[set[str]] = {"test_stays_on_the_simplex", "test_stays_on_the_simplex_in_single_precision"}


def first_is_special(weights: Tensor, direction: Tensor, step: float) -> Tensor:
    weighed = direction.clone()
    weighed.flatten()[0] = weighed.min() if weighed.numel() > 1 else weighed.flatten()[0]
    return mirror_descent(weights, weighed, step)


class TestFirstIsSpecial(SimplexUpdateContract):
    update = first_is_special
    fails: ClassVar[set[str]] = {"test_pairs_have_no_order", *EVERY_MOVE}


# Losses of the logits -------------------------------------------------------------------------------------------------------


class Squares:
    """The mean squared difference, right but for what a subclass does."""

    reads_labels = False

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return (student - teacher.detach()).square().mean(1)


class IntoTheTeacher(Squares):
    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return (student - teacher).square().mean(1)


class OfTheBatch(Squares):
    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return super().__call__(student, teacher, labels).mean()


class HiddenLabels(Squares):
    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return super().__call__(student, teacher, labels) * (1 + labels)


class Overflowing(Squares):
    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return (student.exp() - teacher.detach().exp()).square().mean(1)


class TestSquares(LogitLossContract):
    fails: ClassVar[set[str]] = set()
    loss = Squares


class TestLogitsIntoTheTeacher(LogitLossContract):
    fails: ClassVar[set[str]] = {"test_no_gradient_flows_into_the_teacher"}
    loss = IntoTheTeacher


class TestOfTheBatch(LogitLossContract):
    fails: ClassVar[set[str]] = {"test_gives_a_number_for_each_example"}
    loss = OfTheBatch


class TestHiddenLabels(LogitLossContract):
    fails: ClassVar[set[str]] = {"test_says_whether_labels_act_on_it"}
    loss = HiddenLabels


class TestOverflowing(LogitLossContract):
    fails: ClassVar[set[str]] = {"test_is_finite_for_flat_and_for_large_logits"}
    loss = Overflowing


# Weightings -----------------------------------------------------------------------------------------------------------------


class Moving(Learned):
    """Mirror descent, right but for what a subclass does."""

    def __init__(self, served: Tensor) -> None:
        super().__init__(served, mirror_descent, step=0.1, average=0.5, mix=0.01)


class Doubled(Constant):
    def weights(self, epoch: int, features: Any = None) -> Tensor:
        return 2 * super().weights(epoch)


class Everywhere(Constant):
    def __init__(self, served: Tensor) -> None:
        super().__init__(torch.ones_like(served))


class Against(Moving):
    def learn(self, hypergradient: Tensor, direct: Tensor | None = None) -> None:
        super().learn(-hypergradient, direct)


class Oblivious(Moving):
    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class TestMoving(WeightingContract):
    fails: ClassVar[set[str]] = set()
    weighting = Moving


class TestDoubled(WeightingContract):
    fails: ClassVar[set[str]] = {
        "test_weights_are_a_point_of_the_simplex_in_every_epoch",
        "test_what_is_recorded_of_an_epoch_is_on_the_simplex",
    }
    weighting = Doubled


class TestEverywhere(WeightingContract):
    fails: ClassVar[set[str]] = {"test_pairs_that_cannot_be_compared_have_no_weight"}
    weighting = Everywhere


class TestAgainst(WeightingContract):
    fails: ClassVar[set[str]] = {"test_moves_weight_towards_the_pair_that_helps"}
    weighting = Against


class TestOblivious(WeightingContract):
    fails: ClassVar[set[str]] = {"test_goes_on_from_its_state_as_if_it_had_not_stopped"}
    weighting = Oblivious


# Tasks ----------------------------------------------------------------------------------------------------------------------


class OfClasses(TaskContract):
    def labels(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(4, (count,), generator=generator)


class AlwaysTheMean(Classification):
    def loss(self, output: Tensor, labels: Tensor, reduction: Reduction = "mean") -> Tensor:
        return super().loss(output, labels, "mean" if reduction == "sum" else reduction)


class MeanOfBatches(Classification):
    def statistics(self, output: Tensor, labels: Tensor) -> Tensor:
        right, count, answered = super().statistics(output, labels)
        return torch.stack([right / count.sum(), count / count.sum(), answered / count.sum()])


class Believing(Classification):
    def knows(self, value: float, labels: Tensor) -> bool:
        return value > 0


class MeanDistance(Classification):
    def distance(self, output: Tensor, teacher: Tensor) -> Tensor:
        return super().distance(output, teacher).mean().expand(len(output))


class CrossEntropyToTheTeacher(Classification):
    def distance(self, output: Tensor, teacher: Tensor) -> Tensor:
        return super().distance(output, teacher) - (teacher.log_softmax(1) * teacher.softmax(1)).sum(1)


class TestMeanDistance(OfClasses):
    fails: ClassVar[set[str]] = {"test_the_distance_is_one_number_an_example_and_its_own"}
    task = MeanDistance


class TestCrossEntropyToTheTeacher(OfClasses):
    fails: ClassVar[set[str]] = {"test_the_distance_is_nothing_to_oneself_and_grows_away_from_it"}
    task = CrossEntropyToTheTeacher


class TestBelieving(OfClasses):
    fails: ClassVar[set[str]] = {"test_the_same_output_for_all_knows_nothing"}
    task = Believing


class TestAlwaysTheMean(OfClasses):
    fails: ClassVar[set[str]] = {"test_reductions_are_those_of_each_example"}
    task = AlwaysTheMean


class TestMeanOfBatches(OfClasses):
    fails: ClassVar[set[str]] = {"test_statistics_of_batches_add_up"}
    task = MeanOfBatches
