"""What every pair loss must keep, over every pair of kinds of features."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from kd_hpo.core.hypergradient import squared_slopes
from kd_hpo.core.pairs import PairMatrix
from kd_hpo.testing.world import STUDENT, TEACHER, B, Kind, MakeLoss, World, assert_close, gradients

of_pairs_or_examples = pytest.mark.parametrize("of_examples", [False, True], ids=["T_S", "B_T_S"])


class PairLossContract:
    """What the rest of kd_hpo relies on in a pair loss; kd_hpo.core.pair_losses.PairLoss says it in words.

    Subclass it in a file of tests and say how the loss is made:

        class TestMyLoss(PairLossContract):
            loss = MyLoss
    """

    loss: ClassVar[MakeLoss]
    """Makes the loss, with settings of your choice; it takes no arguments."""
    single_precision: ClassVar[float] = 1e-3
    """How far losses in float32 may be from those in float64, as a share of them; say why where yours needs more."""

    @pytest.fixture
    def make(self) -> MakeLoss:
        """The subclass's `loss`, as it was given: a function is not bound to the test."""
        made_by: MakeLoss | None = getattr(type(self), "loss", None)
        assert callable(made_by), f"{type(self).__name__} does not say how its loss is made: add the line `loss = MyLoss` to it"
        loss = made_by()
        missing = [name for name in ("meet", "standardised", "serves", "module") if not hasattr(loss, name)]
        assert not missing, f"{type(loss).__name__} has no {', '.join(missing)}, which a PairLoss has"
        return made_by

    @pytest.fixture
    def world(self, make: MakeLoss) -> World:
        """The world of all 6 x 6 pairs of kinds."""
        return World(make, TEACHER, STUDENT)

    @pytest.mark.parametrize("name", ["meet", "standardised"])
    def test_says_what_plan_and_targets_it_takes(self, make: MakeLoss, name: str) -> None:
        assert isinstance(getattr(make(), name), bool), f"`{name}` must be True or False"

    # One pair of kinds

    @pytest.mark.parametrize("student", STUDENT, ids=[f"s_{k.layer.name}" for k in STUDENT])
    @pytest.mark.parametrize("teacher", TEACHER, ids=[f"t_{k.layer.name}" for k in TEACHER])
    def test_compares_any_two_layers_or_says_why_not(self, make: MakeLoss, teacher: Kind, student: Kind) -> None:
        world = World(make, [teacher], [student])
        losses = world.losses()
        assert losses.shape == (B, 1, 1), "one loss for each example and pair"
        assert losses.isfinite().all(), "a loss is not finite"
        (gradient,) = gradients(losses.sum(), world.features)
        assert gradient.isfinite().all(), "the gradient in the student's feature is not finite"
        reason = world.reason(0, 0)
        if reason is None:
            assert gradient.abs().max() > 1e-8, (
                "no gradient reaches the student: detached, or nothing to compare, which `serves` says"
            )
        else:  # exactly nothing, or balancing would make much of it
            assert len(reason) > 20, "`serves` gives the reason as a sentence"
            assert not losses.any() and not gradient.any(), "a pair that is not served has a loss and a gradient of exactly 0"

    def test_a_pair_depends_on_its_own_layers_alone(self, world: World) -> None:
        before = world.losses()
        for s in range(6):
            features = [f + 0.1 * world.randn(*f.shape) if i == s else f for i, f in enumerate(world.features)]
            changed = ((world.pairs.sample_losses(features, world.targets) - before).abs() > 1e-12).any(0)
            of_others = changed[:, [i for i in range(6) if i != s]].any()
            assert world.pairs.across_layers or not of_others, (
                f"student layer {s} is in the loss of another's pair; a module that means it says across_layers = True"
            )
            assert changed[:, s].tolist() == [world.reason(t, s) is None for t in range(6)], (
                f"student layer {s} is not in its own"
            )
        for t in range(6):
            blocks = {size: block.clone() for size, block in world.targets.blocks.items()}
            for size, layers in world.plan.blocks.items():
                if t in layers:
                    part = blocks[size].split([world.plan.teacher[u].channels for u in layers], 2)[layers.index(t)]
                    part += 0.1 * world.randn(*part.shape)
            after = world.pairs.sample_losses(world.features, replace(world.targets, blocks=blocks))
            changed = ((after - before).abs() > 1e-12).any(0)
            assert not changed[[i for i in range(6) if i != t]].any(), f"teacher layer {t} is in the loss of another's pair"
            assert changed[t].tolist() == [world.reason(t, s) is None for s in range(6)], f"teacher layer {t} is not in its own"

    # Values

    def test_matrix_is_the_mean_over_examples(self, world: World) -> None:
        losses = world.losses()
        assert losses.shape == (B, 6, 6), "one loss for each example and pair"
        assert_close(
            [world.pairs(world.features, world.targets)], [losses.mean(0)], "the matrix is not the mean", rtol=1e-12, atol=0
        )

    def test_means_and_their_gradients_are_those_of_the_losses(self, world: World) -> None:
        """The means have the losses' values and gradients, however they are come by.

        With weights it is as in training, and without a graph as in forward mode.
        """
        weights = world.weights()
        means, losses = world.pairs(world.features, world.targets, weights), world.losses(weights).mean(0)
        assert_close([means], [losses], "`means` are not the means of the losses")
        inputs = world.features + world.phi
        wrong = "the gradients of `means` are not those of the losses"
        assert_close(gradients(means.sum(), inputs), gradients(losses.sum(), inputs), wrong, 1e-7, 1e-11)
        with torch.no_grad():
            assert_close([world.pairs(world.features, world.targets)], [losses], "without a graph or weights, `means` are others")

    def test_pairs_that_are_not_needed_may_be_left_out(self, world: World) -> None:
        """The pairs that are needed keep loss and gradients where others are left out.

        No other target is read.
        """
        needed, weights = torch.zeros(6, 6, dtype=torch.bool), world.weights()
        needed[[0, 3, 3], [2, 2, 5]] = True
        weights[~needed] = 0
        wanted = {size: block for size, block in world.targets.blocks.items() if size in world.pairs.sizes(needed)}
        some = world.pairs(world.features, replace(world.targets, blocks=wanted), weights, needed)
        every = world.pairs(world.features, world.targets, weights)
        assert_close([some[needed]], [every[needed]], "the pairs that are needed have another loss where others are left out")
        assert ((some - every).abs() <= every.abs()).all(), "a pair that is left out has neither its loss nor 0"
        for inputs, one, all_of_them in (
            (world.features, some.sum(), every.sum()),
            (world.phi, some[needed].sum(), every[needed].sum()),
        ):
            wrong = "the pairs that are needed have other gradients where others are left out"
            assert_close(gradients(one, inputs), gradients(all_of_them, inputs), wrong, 1e-7, 1e-11)

    def test_single_precision_is_close_to_double(self, make: MakeLoss) -> None:
        single, double = World(make, TEACHER, STUDENT, torch.float32), World(make, TEACHER, STUDENT)
        double.take_numbers_of(single)
        actual, expected = single.losses(), double.losses()
        assert actual.dtype == torch.float32, "losses of float32 features are float32"
        share = self.single_precision
        assert_close([actual.double()], [expected], "float32 loses too many digits", share, share / 100)
        for g, e in zip(gradients(actual.sum(), single.features), gradients(expected.sum(), double.features), strict=True):
            assert g.dtype == torch.float32, "gradients of float32 features are float32"
            largest = share * float(e.abs().max()) + 1e-10
            assert_close([g.double()], [e], "the gradient in float32 loses too many digits", 10 * share, largest)

    def test_forward_moves_nothing(self, world: World) -> None:
        before = {name: value.clone() for name, value in world.pairs.state_dict().items()}
        first = world.losses()
        assert torch.equal(world.losses(), first), (
            "a second forward gives other losses: no randomness and no state of the last call"
        )
        for name, value in world.pairs.state_dict().items():
            assert torch.equal(value, before[name]), (
                f"a forward has moved {name}: take a batch's own statistics, not running ones"
            )

    def test_resumes_from_its_state(self, make: MakeLoss, world: World) -> None:
        fresh = PairMatrix(world.plan, make(), generator=torch.Generator().manual_seed(9)).double()
        fresh.load_state_dict(world.pairs.state_dict())
        same = torch.equal(fresh(world.features, world.targets), world.pairs(world.features, world.targets))
        assert same, "what it learns is not in the module's state_dict: a resumed trial would go on with other losses"

    def test_starts_from_its_generator(self, make: MakeLoss, world: World) -> None:
        started = [PairMatrix(world.plan, make(), generator=torch.Generator().manual_seed(4)).state_dict() for _ in range(2)]
        for name, value in started[0].items():
            assert torch.equal(value, started[1][name]), (
                f"{name} starts elsewhere each time: draw from the generator that `module` gets"
            )

    # Weights: in the student's gradient only

    @of_pairs_or_examples
    def test_weights_leave_values_and_regressors_alone(self, world: World, of_examples: bool) -> None:
        weighted, plain = world.losses(world.weights(B) if of_examples else world.weights()), world.losses()
        assert_close([weighted], [plain], "a weight has changed the value of a loss", 1e-10, 1e-14)
        wrong = "a weight has changed the gradient of the loss's own parameters, which stays at unit weight"
        assert_close(gradients(weighted.mean(0).sum(), world.phi), gradients(plain.mean(0).sum(), world.phi), wrong)

    def test_a_pairs_weight_multiplies_its_gradient(self, world: World) -> None:
        weights = world.weights()
        actual = gradients(world.losses(weights).sum(), world.features)
        wrong = "the gradient in the student is not the pair's times its weight"
        assert_close(actual, gradients((weights * world.losses()).sum(), world.features), wrong)

    @of_pairs_or_examples
    def test_the_students_gradient_is_linear_in_the_weights(self, world: World, of_examples: bool) -> None:
        shape = (B,) if of_examples else ()
        one, two = world.weights(*shape), world.weights(*shape)
        first, second, both = (gradients(world.losses(w).sum(), world.features) for w in (one, two, 2 * one - 3 * two))
        wrong = "the gradient in the student is not linear in the weights"
        assert_close(both, [2 * a - 3 * b for a, b in zip(first, second, strict=True)], wrong, 1e-6, 1e-10)

    def test_weights_of_examples_that_are_equal_are_the_pairs(self, world: World) -> None:
        weights = world.weights()
        actual = gradients(world.losses(weights.expand(B, 6, 6)).sum(), world.features)
        wrong = "weights (B, pairs) that are the same for all examples do something else than weights (pairs,)"
        assert_close(actual, gradients(world.losses(weights).sum(), world.features), wrong)

    def test_a_pair_of_weight_zero_trains_its_regressor_only(self, world: World) -> None:
        losses = world.losses(torch.zeros(6, 6, dtype=torch.float64))
        for g in gradients(losses.sum(), world.features):
            assert not g.any(), "a pair of weight 0 moves the student"
        if world.phi:
            for t in range(6):
                for s in range(6):
                    moves = any((g.abs() > 1e-6).any() for g in gradients(losses[:, t, s].sum(), world.phi))
                    assert moves or world.reason(t, s), (
                        f"pair ({t}, {s}) of weight 0 does not train its parameters, and would starve"
                    )

    def test_no_gradient_flows_into_the_teacher(self, world: World) -> None:
        blocks = {size: block.clone().requires_grad_() for size, block in world.targets.blocks.items()}
        world.pairs(world.features, replace(world.targets, blocks=blocks)).sum().backward()
        assert all(block.grad is None for block in blocks.values()), "a gradient flows into the teacher: detach `blocks`"

    # Slopes along a direction, and norms

    def test_forward_mode_is_a_central_difference(self, world: World) -> None:
        features = [f.detach() for f in world.features]
        tangents = [world.randn(*f.shape) for f in features]

        def matrix(*features: Tensor) -> Tensor:
            return world.pairs(features, world.targets)  # type: ignore[no-any-return]

        slope = torch.func.jvp(matrix, tuple(features), tuple(tangents))[1]
        ahead, behind = (matrix(*(f + h * v for f, v in zip(features, tangents, strict=True))) for h in (1e-6, -1e-6))
        assert_close([slope], [(ahead - behind) / 2e-6], "the slope in forward mode is not that of the values", 1e-5, 1e-8)

    def test_a_squared_slope_is_that_of_the_gradient_along_the_same_random_direction(self, world: World) -> None:
        names = [str(i) for i in range(6)]

        def losses(w: dict[str, Tensor]) -> Tensor:
            return world.pairs([w[n] for n in names], world.targets).flatten()  # type: ignore[no-any-return]

        features = {n: f.detach() for n, f in zip(names, world.features, strict=True)}
        actual = squared_slopes(losses, features, torch.Generator().manual_seed(3)).view(6, 6)
        generator = torch.Generator().manual_seed(3)
        z = [torch.randn(f.shape, generator=generator, dtype=f.dtype) for f in features.values()]
        matrix = world.losses().mean(0)
        for t in range(6):
            for s in range(6):
                reached = range(6) if world.pairs.across_layers else [s]
                of_layers = gradients(matrix[t, s], [world.features[i] for i in reached])
                expected = torch.stack([(g * z[i]).sum() for i, g in zip(reached, of_layers, strict=True)]).sum().square()
                assert_close([actual[t, s]], [expected], "the slope in forward mode is not that of the gradient")

    def test_a_plan_of_some_pairs_compares_them_alone(self, world: World) -> None:
        chosen = frozenset({(0, 1), (3, 1), (2, 4), (5, 5)})
        some = PairMatrix(replace(world.plan, compared=chosen), world.loss, generator=torch.Generator()).double()
        losses = some.sample_losses(world.features, world.targets)
        for t in range(6):
            for s in range(6):
                wanted = (t, s) in chosen and world.reason(t, s) is None
                assert bool(losses[:, t, s].any()) == wanted, (
                    f"of the pairs {sorted(chosen)}, ({t}, {s}) is compared or not, wrongly"
                )
        more = sum(p.numel() for p in some.parameters()) > sum(p.numel() for p in world.pairs.parameters())
        assert not more, "a plan of some pairs has more parameters than that of all: make them for plan.groups alone"
        read = {size: block for size, block in world.targets.blocks.items() if size in some.plan.sizes}
        again = some.sample_losses(world.features, replace(world.targets, blocks=read))
        assert torch.equal(again, losses), "it reads targets of a resolution that is not in plan.sizes"

    def test_gradients_are_finite_for_dead_and_equal_features(self, world: World) -> None:
        dead: dict[str, Callable[[Tensor], Tensor]] = {
            "all zeros": torch.zeros_like,
            "the same for all examples": lambda x: x[:1].expand_as(x).clone(),
            "zeros but for a few": lambda x: x * (x > 2),
        }
        start = world.features
        for what, make in dead.items():
            world.features = [make(f.detach()).requires_grad_() for f in start]
            losses = world.losses(world.weights())
            assert losses.isfinite().all(), f"a loss is not finite where the student's features are {what}"
            for g in gradients(losses.sum(), world.features + world.phi):
                assert g.isfinite().all(), f"a gradient is not finite where the student's features are {what}"
                assert g.abs().max() < 1e5, f"a gradient is huge where the student's features are {what}"

    def test_learns(self, world: World) -> None:
        """Gradient steps on features and parameters lower the sum of losses: no sign is wrong."""
        before = world.losses().sum()
        inputs = world.features + world.phi
        steps = gradients(before, inputs)
        length = math.sqrt(sum(float(g.square().sum()) for g in steps))
        with torch.no_grad():
            for x, g in zip(inputs, steps, strict=True):
                x -= 1e-3 / length * g
            fall = before.detach() - world.losses().sum()
        wrong = "a small step down the gradient does not lower the losses as it should: a sign or a factor of it is wrong"
        assert float(fall) == pytest.approx(1e-3 * length, rel=0.1), wrong
