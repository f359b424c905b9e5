"""What every weighting of the pairs must keep."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from kd_hpo.core.weightings import Compared, Weighting

MakeWeighting = Callable[[Tensor], Weighting]
T, S, B = 3, 2, 4
SERVED = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
"""(T, S): one pair cannot be compared."""
EPOCHS = range(4)


def evidence(seed: int) -> Tensor:
    """A hypergradient (T, S) in which the pair (2, 1) always helps most, and (0, 0) least."""
    h = 0.3 * torch.randn(T, S, generator=torch.Generator().manual_seed(seed))
    h[2, 1], h[0, 0] = -2.0, 2.0
    return h


def features() -> Compared:
    generator = torch.Generator().manual_seed(5)
    student = [torch.randn(B, 5, generator=generator) for _ in range(S)]
    return Compared(student, [torch.randn(B, 6, 7, generator=generator) for _ in range(T)])


def assert_on_simplex(weights: Tensor) -> None:
    assert weights.isfinite().all(), "a weight is not finite"
    assert (weights >= 0).all(), "a weight is negative"
    torch.testing.assert_close(
        weights.sum((-2, -1)), torch.ones(weights.shape[:-2]), msg=lambda numbers: f"the weights do not sum to 1\n{numbers}"
    )


class WeightingContract:
    """What the rest of kd_hpo relies on in a weighting; kd_hpo.core.weightings.Weighting says it in words.

    Subclass it in a file of tests and say how the weighting is made from the served pairs (T, S), with settings of your choice;
    one that reads features has to take a batch of four examples:

        class TestMyWeighting(WeightingContract):
            weighting = MyWeighting
    """

    weighting: ClassVar[MakeWeighting]

    @pytest.fixture
    def make(self) -> MakeWeighting:
        found: MakeWeighting | None = getattr(type(self), "weighting", None)
        assert callable(found), f"{type(self).__name__} does not say how its weighting is made: add `weighting = MyWeighting`"
        return found

    @pytest.fixture
    def made(self, make: MakeWeighting) -> Weighting:
        made = make(SERVED)
        assert isinstance(made, Weighting), f"a {type(made).__name__} has not all that a Weighting has"
        return made

    def test_weights_are_a_point_of_the_simplex_in_every_epoch(self, made: Weighting) -> None:
        for epoch in EPOCHS:
            weights = made.weights(epoch)
            assert weights.shape == (T, S), "without features the weights are (T, S)"
            assert_on_simplex(weights)
            assert 0 < made.total(epoch) < float("inf"), "the total is not a positive number"

    def test_pairs_that_cannot_be_compared_have_no_weight(self, made: Weighting) -> None:
        assert made.support().dtype == torch.bool, "the support is True or False for each pair"
        assert not made.support()[SERVED == 0].any(), "the support has a pair that is not served"
        for epoch in EPOCHS:
            assert not made.weights(epoch)[~made.support()].any(), "a pair outside the support has a weight"

    def test_what_is_recorded_of_an_epoch_is_on_the_simplex(self, made: Weighting) -> None:
        if made.reads_features:
            made.weights(0, features())
        recorded = made.of_epoch(0)
        assert recorded.shape == (T, S) and not recorded.requires_grad, "a record is (T, S), without a gradient"
        assert_on_simplex(recorded)

    def test_moves_weight_towards_the_pair_that_helps(self, made: Weighting) -> None:
        if not made.learns:
            pytest.skip("it does not learn from hypergradients")
        before = made.weights(0).clone()
        for seed in range(30):
            made.learn(evidence(seed))
            assert_on_simplex(made.weights(0))
        after = made.weights(0)
        assert after[2, 1] - before[2, 1] > after[0, 0] - before[0, 0], "30 updates have favoured the pair that helps least"
        assert after[2, 1] > before[2, 1], "30 updates have taken weight from the pair that helps most: wrong sign?"

    def test_goes_on_from_its_state_as_if_it_had_not_stopped(self, make: MakeWeighting, made: Weighting) -> None:
        again = make(SERVED)
        if made.learns:
            for seed in range(3):
                made.learn(evidence(seed))
        state = {name: value.clone() for name, value in made.state_dict().items()}
        again.load_state_dict(state)
        if made.learns:
            made.learn(evidence(9))
            again.learn(evidence(9))
        for epoch in EPOCHS:
            assert torch.equal(made.weights(epoch), again.weights(epoch)), "state_dict does not hold all that moves the weights"
            assert made.total(epoch) == again.total(epoch), "state_dict does not hold all that moves the total"

    def test_weights_of_a_batch_train_its_parameters(self, made: Weighting) -> None:
        parameters = [p for group in made.parameter_groups() for p in group["params"]]
        assert all(group.get("lr", 0) > 0 for group in made.parameter_groups()), "a group of parameters has no learning rate"
        if not made.reads_features:
            assert not parameters, "parameters that the training loss trains need weights of a batch: reads_features"
            pytest.skip("its weights are not those of a batch")
        weights = made.weights(0, features())
        assert weights.shape in ((T, S), (B, T, S)), "the weights of a batch are (T, S) or (B', T, S)"
        assert_on_simplex(weights)
        losses = torch.randn(T, S, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((weights * losses).sum(), parameters, allow_unused=True, materialize_grads=True)
        assert any(g.any() for g in gradients), "no parameter gets a gradient from the weights"
