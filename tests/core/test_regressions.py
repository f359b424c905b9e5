"""Pair losses with a regressor: formulas against values by hand, modules against slow loops."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, pair_plan
from kd_hpo.core.regressions import Gaussian, GroupRegressor, Hint, InfoNCE, info_nce

B, N, C = 3, 4, 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# One pair or several, as modules ---------------------------------------------------------------------------------------------


def matrix_of(loss: PairLoss, teacher: list[int], student: list[int], side: tuple[int, int]) -> tuple[PairMatrix, Tensor, Tensor]:
    """Pairs of maps h x w, the student's feature (B, C_s, h, w) of one layer and the block (B, hw, sum C_t) of the teacher."""
    plan = pair_plan([LayerShape(f"t{c}", c, *side) for c in teacher], [LayerShape(f"s{c}", c, *side) for c in student])
    pairs = PairMatrix(plan, loss).double()
    with torch.no_grad():
        for seed, p in enumerate(pairs.parameters()):
            p += 0.3 * randn(*p.shape, seed=seed)  # none is at 0 or 1
    return pairs, randn(B, student[0], *side, seed=8), randn(B, side[0] * side[1], sum(teacher), seed=9)


def losses_of(pairs: PairMatrix, feature: Tensor, block: Tensor) -> Tensor:
    return pairs.sample_losses([feature], Targets(torch.zeros(B, 2), {pairs.plan.groups[0].size: block}))[..., 0]


def parameters_of(pairs: PairMatrix) -> dict[str, Tensor]:
    return {name.removeprefix("feature_pairs.groups.0."): p for name, p in pairs.named_parameters()}


SHAPES = [([2], (1, 1)), ([3, 1, 4], (2, 3))]


@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_mlp_is_three_layers_for_each_pair(channels: list[int], side: tuple[int, int]) -> None:
    pairs, feature, block = matrix_of(Gaussian(regressor="mlp", floor=0.1), channels, [3], side)
    phi = parameters_of(pairs)
    start, expected = 0, []
    for t, c in enumerate(channels):
        span = slice(start, start + c)
        layers = [phi["weight"][span], phi[f"deeper.0.weights.{t}"], phi[f"deeper.1.weights.{t}"]]
        assert [tuple(layer.shape) for layer in layers] == [(c, 3), (c, c), (c, c)]
        hidden = F.conv2d(feature, layers[0][..., None, None]).relu()
        hidden = F.conv2d(hidden, layers[1][..., None, None]).relu()
        mean = F.conv2d(hidden, layers[2][..., None, None])
        deviation = (torch.log1p(phi["rho"][span].exp()) + 0.1).sqrt()[:, None, None]
        target = block[..., span].transpose(1, 2).reshape(B, c, *side)
        nll = -Normal(mean, deviation).log_prob(target) - 0.5 * math.log(2 * math.pi)
        expected.append(nll.mean((1, 2, 3)))
        start += c
    torch.testing.assert_close(losses_of(pairs, feature, block), torch.stack(expected, 1), rtol=1e-8, atol=1e-12)
    assert sum(p.numel() for p in phi.values()) == sum(c * 3 + 2 * c * c + c for c in channels)  # no bias


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_hint_is_the_error_of_a_normalised_map(channels: list[int], side: tuple[int, int], relu: bool) -> None:
    pairs, feature, block = matrix_of(Hint(relu=relu), channels, [3], side)
    phi = parameters_of(pairs)
    start, expected = 0, []
    for c in channels:
        span = slice(start, start + c)
        norm = nn.BatchNorm2d(c).double().train()
        norm.load_state_dict({"weight": phi["gain"][span], "bias": phi["shift"][span]}, strict=False)
        hint = norm(F.conv2d(feature, phi["weight"][span, :, None, None]))
        target = block[..., span].transpose(1, 2).reshape(B, c, *side)
        expected.append(((hint.relu() if relu else hint) - target).square().mean((1, 2, 3)))
        start += c
    torch.testing.assert_close(losses_of(pairs, feature, block), torch.stack(expected, 1), rtol=1e-8, atol=1e-12)


def test_hint_by_hand() -> None:
    # Outputs -1 and 1 over the batch: normalised, they stay as they are (but for the 1e-5), and ReLU makes 0 and 1 of them.
    pairs = PairMatrix(pair_plan([LayerShape("t", 1, 1, 1)], [LayerShape("s", 1, 1, 1)]), Hint()).double()
    with torch.no_grad():
        parameters_of(pairs)["weight"].fill_(1)
    targets = Targets(torch.zeros(2, 2), {(1, 1): torch.tensor([[[3.0]], [[0.5]]], dtype=torch.float64)})
    losses = pairs.sample_losses([torch.tensor([[-1.0], [1.0]], dtype=torch.float64)], targets)
    torch.testing.assert_close(losses.flatten(), torch.tensor([9.0, 0.25], dtype=torch.float64), rtol=1e-4, atol=0)


def test_hint_takes_targets_and_students_of_any_scale() -> None:
    pairs, feature, block = matrix_of(Hint(), [3], [3], (2, 2))
    torch.testing.assert_close(losses_of(pairs, 1e3 * feature + 7, block), losses_of(pairs, feature, block), rtol=1e-3, atol=0)


def test_further_forwards_move_no_statistics() -> None:
    """A known trap: a train-mode batch norm, whose running statistics every extra forward moves."""
    pairs, feature, block = matrix_of(Hint(), [3, 2], [3], (2, 2))
    before = {name: value.clone() for name, value in pairs.state_dict().items()}
    first = losses_of(pairs, feature, block)
    losses_of(pairs, 5 * feature, block)
    assert torch.equal(losses_of(pairs.eval(), feature, block), first)  # nor does the mode change anything
    assert set(before) == set(dict(pairs.named_parameters()))
    for name, value in pairs.state_dict().items():
        assert torch.equal(value, before[name])


def test_hint_takes_a_single_value() -> None:
    pairs = PairMatrix(pair_plan([LayerShape("t", 2, 1, 1)], [LayerShape("s", 3, 1, 1)]), Hint()).double()
    loss = pairs.sample_losses([randn(1, 3)], Targets(torch.zeros(1, 2), {(1, 1): randn(1, 1, 2, seed=1)}))
    torch.testing.assert_close(loss.flatten()[0], randn(1, 1, 2, seed=1).square().mean(), rtol=1e-8, atol=0)  # 0 before ReLU


# InfoNCE -------------------------------------------------------------------------------------------------------------------


def test_info_nce_by_hand() -> None:
    # Cosines of student 0 with the teachers: 1 and 0; of student 1: 0 and 1 / sqrt 2. Temperature 1/2.
    student = torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]]])
    teacher = torch.tensor([[[5.0, 0.0]], [[-1.0, 1.0]]])
    cosines = [[1.0, -(0.5**0.5)], [0.0, 0.5**0.5]]
    expected = [[math.log(sum(math.exp(2 * c) for c in row)) - 2 * row[i]] for i, row in enumerate(cosines)]
    torch.testing.assert_close(info_nce(student, teacher, 0.5), torch.tensor(expected))


@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_info_nce_tells_each_examples_teacher(channels: list[int], side: tuple[int, int]) -> None:
    pairs, feature, block = matrix_of(InfoNCE(temperature=0.3), channels, [3], side)
    phi = parameters_of(pairs)
    predicted = (torch.einsum("oc,bchw->bohw", phi["weight"], feature) + phi["bias"][:, None, None]).mean((2, 3))
    expected, start = torch.empty(B, len(channels), dtype=torch.float64), 0
    for p, c in enumerate(channels):
        span = slice(start, start + c)
        for i in range(B):
            scores = torch.stack([F.cosine_similarity(predicted[i, span], block[j, :, span].mean(0), dim=0) for j in range(B)])
            expected[i, p] = -(scores / 0.3).log_softmax(0)[i]
        start += c
    torch.testing.assert_close(losses_of(pairs, feature, block), expected, rtol=1e-8, atol=1e-12)


def test_info_nce_bounds_the_information() -> None:
    # A student that knows the example reaches log B at a low temperature; one that says the same of all stays at 0 or below.
    teacher = randn(16, 2, 6)
    assert 0 <= info_nce(teacher, teacher, 0.01).mean() < 1e-3
    for seed in range(5):
        ignorant = randn(1, 2, 6, seed=seed).expand(16, 2, 6)
        for temperature in (0.05, 1.0):
            assert (info_nce(ignorant, teacher, temperature).mean(0) >= math.log(16) - 1e-12).all()


def test_a_regressor_that_compares_nothing_cannot_be_made() -> None:
    plan = pair_plan([LayerShape("t", 2, 1, 1)], [LayerShape("s", 3, 1, 1)])
    with pytest.raises(TypeError, match=r"abstract method '?losses"):
        GroupRegressor(plan, plan.groups[0], torch.Generator())  # type: ignore[abstract]


# Gradients -----------------------------------------------------------------------------------------------------------------

LOSSES = {
    "linear": Gaussian(),
    "mlp": Gaussian(regressor="mlp"),
    "fixed": Gaussian(learn_variance=False),
    "hint": Hint(),
    "hint_linear": Hint(relu=False),
    "infonce": InfoNCE(),
}


@pytest.mark.parametrize(("channels", "side"), SHAPES)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_are_finite_differences(loss: PairLoss, channels: list[int], side: tuple[int, int]) -> None:
    pairs, feature, block = matrix_of(loss, channels, [3], side)
    names = [name for name, _ in pairs.named_parameters()]

    def losses(feature: Tensor, *phi: Tensor) -> Tensor:
        targets = Targets(torch.zeros(B, 2), {pairs.plan.groups[0].size: block})
        return torch.func.functional_call(pairs, dict(zip(names, phi, strict=True)), ([feature], targets))

    inputs = [feature.requires_grad_(), *pairs.parameters()]
    assert torch.autograd.gradcheck(losses, inputs, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize(
    "make",
    [lambda x: torch.zeros_like(x), lambda x: x[:1].expand_as(x), lambda x: x * (torch.arange(B) > 0)[:, None, None, None]],
    ids=["zeros", "equal_examples", "one_zero_example"],
)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_stay_small_where_nothing_varies(loss: PairLoss, make: Callable[[Tensor], Tensor]) -> None:
    pairs, feature, block = matrix_of(loss, [2, 3], [3], (2, 2))
    with torch.no_grad():
        for name, p in pairs.named_parameters():
            if "bias" in name:
                p.zero_()  # a feature of zeros is then regressed to a row of zeros
    feature = make(feature).clone().requires_grad_()
    losses = losses_of(pairs, feature, block)
    gradients = torch.autograd.grad(losses.sum(), [feature, *pairs.parameters()])
    assert losses.isfinite().all()
    assert all(g.abs().max() < 1e4 for g in gradients)
