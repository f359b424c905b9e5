"""SemCKD's attention: sums, shape, and its formula written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_hpo.core.attention import CrossLayerAttention

T, S, B = 4, 3, 8


def attention(seed: int = 0, shape: tuple[int, int] = (T, S)) -> CrossLayerAttention:
    return CrossLayerAttention(torch.ones(shape), B, factor=2, generator=torch.Generator().manual_seed(seed)).double()


def features(count: int, seed: int) -> list[Tensor]:
    """Maps, tokens and vectors, no two of one size."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, 3, 4, 4), (B, 5, 6), (B, 7), (B, 2, 2, 3)][:count]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_weights_of_an_example_sum_to_one() -> None:
    weights = attention()(features(S, 1), features(T, 2))
    assert weights.shape == (B, T, S)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(B, dtype=torch.float64), rtol=1e-12, atol=0)
    # each student layer shares 1 / S among the teacher's layers
    torch.testing.assert_close(weights.sum(1), torch.full((B, S), 1 / S, dtype=torch.float64), rtol=1e-12, atol=0)


def test_is_a_softmax_over_teacher_layers() -> None:
    net, student, teacher = attention(), features(S, 1), features(T, 2)
    weights = net(student, teacher)

    def embedding(layers: torch.nn.Sequential, feature: Tensor, b: int) -> Tensor:
        similarity = torch.stack([(feature[b] * feature[other]).sum() for other in range(B)])  # row b of the Gram matrix
        first, _, second = layers
        z = second.weight @ F.relu(first.weight @ similarity + first.bias) + second.bias
        return z / z.norm()  # type: ignore[no-any-return]

    for b in (0, 5):
        for s in range(S):
            query = embedding(net.queries[s].layers, student[s], b)
            scores = [(embedding(net.keys[t].layers, teacher[t], b) @ query).exp() for t in range(T)]
            expected = torch.stack(scores) / sum(scores) / S
            torch.testing.assert_close(weights[b, :, s], expected, rtol=1e-8, atol=1e-12)


def test_is_learned_but_sends_nothing_to_the_networks() -> None:
    net = attention()
    student, teacher = ([f.requires_grad_() for f in features(n, n)] for n in (S, T))
    net(student, teacher)[:, 0].sum().backward()
    assert all(f.grad is None for f in student + teacher)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_one_teacher_layer_gets_all() -> None:
    weights = attention(shape=(1, S))(features(S, 1), features(1, 2))
    torch.testing.assert_close(weights, torch.full((B, 1, S), 1 / S, dtype=torch.float64), rtol=1e-12, atol=0)


def test_starts_the_same_for_the_same_generator() -> None:
    one, again, other = (attention(seed)(features(S, 1), features(T, 2)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_resumes_from_its_state() -> None:
    net, resumed = attention(0), attention(1)
    resumed.load_state_dict(net.state_dict())
    assert torch.equal(resumed(features(S, 1), features(T, 2)), net(features(S, 1), features(T, 2)))


def test_layers_that_do_not_fit_the_plan_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        attention()(features(S - 1, 1), features(T, 2))


def test_unserved_pairs_get_nothing_and_the_others_all() -> None:
    """A softmax over the served teacher layers of each student layer; a student layer without any has no share."""
    served = torch.tensor([[1.0, 0, 0], [1, 1, 0]])
    attention = CrossLayerAttention(served, 4, generator=torch.Generator().manual_seed(0))
    features = [torch.randn(4, 5, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    weights = attention(features[:3], features[3:])
    assert weights.shape == (4, 2, 3)
    assert (weights[:, served == 0] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.tensor([0.5, 0.5, 0.0]).expand(4, 3))
    weights.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in attention.parameters())
