"""Pair losses without a regressor, against values by hand and slow loops over examples, written from the papers' formulas."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from kd_hpo.core import comparisons
from kd_hpo.core.comparisons import (
    Comparison,
    attention,
    attention_map,
    cosine_distribution,
    flow_distributions,
    flow_divergence,
    information_flow,
    mean_kullback_leibler,
    mean_square,
    pkt,
    similarities,
    similarity,
)
from kd_hpo.core.pair_losses import PairLoss
from kd_hpo.core.pairs import PairMatrix, Targets
from kd_hpo.core.plan import LayerShape, pair_plan

B = 4
Summary = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
Slow = Callable[[Tensor, Tensor], Tensor]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The slow ways: student and teacher (B, C, H, W) -> (B,) ---------------------------------------------------------------------


def slow_attention(student: Tensor, teacher: Tensor) -> Tensor:
    losses = []
    for s, t in zip(student, teacher, strict=True):
        maps = [(h**2).mean(0) for h in (s, t)]
        a, b = (m / (m**2).sum().sqrt() for m in maps)
        losses.append(((a - b) ** 2).mean())
    return torch.stack(losses)


def slow_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    losses = []
    for i in range(len(student)):
        rows = [torch.stack([(h[i] * h[j]).sum() for j in range(len(h))]) for h in (student, teacher)]
        a, b = (row / (row**2).sum().sqrt() for row in rows)
        losses.append(((a - b) ** 2).sum() / len(student))
    return torch.stack(losses)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return ((a * b).sum() / ((a**2).sum() * (b**2).sum()).sqrt() + 1) / 2


def student_t(a: Tensor, b: Tensor) -> Tensor:
    return 1 / (1 + (((a - b) ** 2).sum() + 1e-6).sqrt())


def distribution(kernel: Slow, feature: Tensor, i: int) -> Tensor:
    row = torch.stack([kernel(feature[i], feature[j]) for j in range(len(feature))])
    return row / row.sum()


def slow_pkt(student: Tensor, teacher: Tensor) -> Tensor:
    losses = []
    for i in range(len(student)):
        p, q = distribution(cosine, teacher, i), distribution(cosine, student, i)
        losses.append((p * ((p + 1e-7) / (q + 1e-7)).log()).mean())
    return torch.stack(losses)


def slow_ifm(student: Tensor, teacher: Tensor) -> Tensor:
    losses = []
    for i in range(len(student)):
        loss = torch.zeros((), dtype=torch.float64)
        for kernel in (cosine, student_t):
            p, q = distribution(kernel, teacher, i), distribution(kernel, student, i)
            loss = loss + ((p - q) * ((p + 1e-7).log() - (q + 1e-7).log())).mean()
        losses.append(loss)
    return torch.stack(losses)


CASES: dict[str, tuple[PairLoss, Summary, Distance, Slow]] = {
    "attention": (attention(), attention_map, mean_square, slow_attention),
    "similarity": (similarity(), similarities, mean_square, slow_similarity),
    "pkt": (pkt(), cosine_distribution, mean_kullback_leibler, slow_pkt),
    "ifm": (information_flow(), flow_distributions, flow_divergence, slow_ifm),
}
every_loss = pytest.mark.parametrize("name", CASES)


def rows_of(image: Tensor) -> Tensor:  # (B, C, H, W) -> (B, N, C)
    return image.flatten(2).transpose(1, 2)


def loss_of(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    _, summary, distance, _ = CASES[name]
    return distance(summary(rows_of(student)), summary(rows_of(teacher)))


@pytest.mark.parametrize("shapes", [((3, 2, 2), (5, 2, 2)), ((2, 3, 4), (1, 3, 4))], ids=str)
@every_loss
def test_equals_the_slow_loop(name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    student, teacher = (randn(B, *shape, seed=seed) for seed, shape in enumerate(shapes))
    expected = CASES[name][3](student, teacher)
    assert expected.shape == (B,)
    torch.testing.assert_close(loss_of(name, student, teacher), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("name", ["similarity", "pkt", "ifm"])
def test_what_stays_apart_needs_no_equal_maps(name: str) -> None:
    student, teacher = randn(B, 3, 5, 2), randn(B, 7, 1, 1, seed=1)
    torch.testing.assert_close(loss_of(name, student, teacher), CASES[name][3](student, teacher), rtol=1e-8, atol=1e-14)


# Values by hand ------------------------------------------------------------------------------------------------------------


def test_attention_by_hand() -> None:
    # Maps of mean squares (3, 4) and (4, 3), each of norm 5: 2 (1/5)^2 in two positions. A sum of norms would give more.
    student, teacher = torch.tensor([[[3.0, 4.0]]]).sqrt(), torch.tensor([[[4.0, 0.0], [0.0, 3.0]]]).mul(2).sqrt()
    loss = mean_square(attention_map(student.transpose(1, 2)), attention_map(teacher.transpose(1, 2)))
    torch.testing.assert_close(loss, torch.tensor([0.04]))


def test_similarity_by_hand() -> None:
    # Student: Gram (1, 0; 0, 1). Teacher: (9, 12; 12, 16), whose rows are both (3, 4) / 5.
    student, teacher = torch.eye(2).unsqueeze(1), torch.tensor([[[3.0]], [[4.0]]])
    loss = mean_square(similarities(student), similarities(teacher))
    torch.testing.assert_close(loss, torch.tensor([(0.4**2 + 0.8**2) / 2, (0.6**2 + 0.2**2) / 2]))
    # The paper's: the squared Frobenius norm of the difference over B^2.
    torch.testing.assert_close(loss.mean(), torch.tensor((0.4**2 + 0.8**2 + 0.6**2 + 0.2**2) / 4))


def test_pkt_by_hand() -> None:
    # Student: cosine 0, probabilities (2/3, 1/3); teacher: cosine 1, (1/2, 1/2).
    student, teacher = torch.eye(2, dtype=torch.float64).unsqueeze(1), torch.tensor([[[3.0]], [[4.0]]], dtype=torch.float64)
    loss = mean_kullback_leibler(cosine_distribution(student), cosine_distribution(teacher))
    expected = (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))) / 2  # KL over B: the mean over B x B is PKT's
    torch.testing.assert_close(loss, torch.full((2,), expected, dtype=torch.float64), rtol=1e-6, atol=0)


def test_ifm_by_hand() -> None:
    # Cosines as in PKT: (2/3, 1/3) and (1/2, 1/2). Student's t: distances 5 and 1 give kernels (1, 1/6) and (1, 1/2),
    # so (6/7, 1/7) and (2/3, 1/3), but for the 1e-3 that the root's epsilon makes of a distance of 0.
    student, teacher = torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]]]), torch.tensor([[[3.0]], [[4.0]]])
    loss = flow_divergence(flow_distributions(student), flow_distributions(teacher))
    by_cosine = (2 / 3 - 1 / 2) * (math.log(4 / 3) - math.log(2 / 3))
    by_student_t = (6 / 7 - 2 / 3) * (math.log(9 / 7) - math.log(3 / 7))
    torch.testing.assert_close(loss, torch.full((2,), (by_cosine + by_student_t) / 2), rtol=2e-3, atol=0)


# What each loss does not see -------------------------------------------------------------------------------------------------


@every_loss
def test_a_student_like_its_teacher_has_nothing_to_learn(name: str) -> None:
    feature = randn(B, 3, 2, 2).requires_grad_()
    loss = loss_of(name, feature, feature.detach())
    torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-15)
    (gradient,) = torch.autograd.grad(loss.sum(), feature)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)  # the logarithm's epsilon


@pytest.mark.parametrize("name", ["attention", "similarity", "pkt"])
def test_the_scale_of_features_does_not_count(name: str) -> None:
    student, teacher = randn(B, 3, 2, 2), randn(B, 3, 2, 2, seed=1)
    torch.testing.assert_close(loss_of(name, 1e-3 * student, 50 * teacher), loss_of(name, student, teacher), rtol=1e-8, atol=0)


def test_ifm_counts_distances() -> None:
    student, teacher = randn(B, 3, 2, 2), randn(B, 3, 2, 2, seed=1)
    assert (loss_of("ifm", 3 * student, teacher) - loss_of("ifm", student, teacher)).abs().max() > 1e-3


def test_the_layout_of_rows_does_not_count() -> None:
    image = randn(B, 3, 2, 2)
    for summary in (similarities, cosine_distribution, flow_distributions):
        torch.testing.assert_close(summary(rows_of(image)), summary(rows_of(image).contiguous()), rtol=1e-10, atol=1e-14)


# Slopes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [((2, 1, 2), (3, 1, 2)), ((1, 2, 2), (2, 2, 2))], ids=str)
@every_loss
def test_gradients_are_finite_differences(name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    student, teacher = (randn(B, *shape, seed=seed) for seed, shape in enumerate(shapes))
    loss = partial(loss_of, name, teacher=teacher)
    assert torch.autograd.gradcheck(loss, student.requires_grad_(), check_forward_ad=True, check_batched_grad=True)


DEGENERATE: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "one_zero_example": lambda x: x * (torch.arange(B).to(x) > 0)[:, None, None, None],
    "two_equal_examples": lambda x: x[[0, 0, 2, 3]],
    "equal_examples": lambda x: x[:1].repeat(B, 1, 1, 1),
    "opposite_examples": lambda x: x[[0, 0, 2, 2]] * torch.tensor([1.0, -1.0, 1.0, -1.0]).to(x)[:, None, None, None],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_teacher", [False, True], ids=["student", "both"])
@pytest.mark.parametrize("make", DEGENERATE.values(), ids=DEGENERATE)
@every_loss
def test_slopes_are_small_where_public_code_divides_by_zero(
    name: str, make: Callable[[Tensor], Tensor], of_teacher: bool, dtype: torch.dtype
) -> None:
    """Known faults elsewhere: the root of a norm or a distance at 0, the logarithm of a similarity of 0, x / 1e-12."""
    student = make(randn(B, 3, 16, 16).to(dtype)).requires_grad_()
    teacher = randn(B, 3, 16, 16, seed=1).to(dtype)
    loss = loss_of(name, student, make(teacher) if of_teacher else teacher)
    assert loss.isfinite().all()
    gradient, tangent = torch.autograd.grad(loss.sum(), student)[0], randn(B, 3, 16, 16, seed=2).to(dtype)
    assert gradient.abs().max() < 100
    slope = torch.func.jvp(partial(loss_of, name, teacher=teacher), (student.detach(),), (tangent,))[1]
    assert slope.isfinite().all()


def test_rounding_below_a_cosine_of_minus_one_is_no_nan() -> None:
    # As products in half of float32's digits give it: a probability below zero would have no logarithm.
    distribution = comparisons._cosine_rows(torch.tensor([[1.0, -1.001], [-1.001, 1.0]]))
    assert torch.equal(distribution, torch.eye(2))
    assert mean_kullback_leibler(distribution, distribution.roll(1, 0)).isfinite().all()


# Together ------------------------------------------------------------------------------------------------------------------


def counted(loss: Comparison, summary: Summary) -> int:
    """How often a feature is summed up for one matrix of 3 x 2 pairs."""
    calls = []
    loss = replace(loss, summary=lambda rows: calls.append(rows.shape) or summary(rows))
    teacher = [LayerShape("a", 2, 8, 8), LayerShape("b", 3, 4, 4), LayerShape("c", 4, 4, 4)]
    student = [LayerShape("x", 5, 8, 8), LayerShape("y", 6, 4, 4)]
    plan = pair_plan(teacher, student, meet=loss.meet)
    pairs = PairMatrix(plan, loss).double()
    blocks = {(h, w): randn(B, h * w, sum(plan.teacher[t].channels for t in ts)) for (h, w), ts in plan.blocks.items()}
    features = [randn(B, layer.channels, layer.height, layer.width) for layer in student]
    assert pairs(features, Targets(torch.zeros(B, 2), blocks)).shape == (3, 2)
    assert list(pairs.parameters()) == []
    return len(calls)


@pytest.mark.parametrize("name", ["similarity", "pkt", "ifm"])
def test_apart_each_layer_is_summed_up_once(name: str) -> None:
    assert counted(*CASES[name][:2]) == 3 + 2


def test_meeting_each_layer_is_summed_up_once_a_resolution() -> None:
    # Teacher: a at 8 and at 4, b and c at 4; student: x at 8 and at 4, y at 4.
    assert counted(*CASES["attention"][:2]) == 4 + 3
