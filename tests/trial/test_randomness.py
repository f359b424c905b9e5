"""One stream of random numbers a purpose, and torch's global state for dropout."""

from itertools import combinations

import torch

from kd_hpo.trial import randomness
from kd_hpo.trial.randomness import generator, random_state, random_state_kept, set_random_state


def test_a_stream_is_its_seed_purpose_and_position() -> None:
    def drawn(*of: int) -> torch.Tensor:
        return torch.rand(4, generator=generator(*of))

    assert torch.equal(drawn(3, randomness.ORDER, 1), drawn(3, randomness.ORDER, 1))
    streams = [drawn(s, p, *at) for s in (0, 1) for p in range(8) for at in ((), (0,), (1,), (0, 1))]
    # A position of zeros is the start: numpy's seeds end in as many zeros as one likes.
    distinct = {tuple(stream.tolist()) for stream in streams}
    assert len(distinct) == 2 * 8 * 3
    assert all(not torch.equal(drawn(0, a, 1), drawn(0, b, 1)) for a, b in combinations(range(8), 2))


def test_the_global_state_comes_back() -> None:
    torch.manual_seed(5)
    state = random_state()
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)


def test_what_is_drawn_inside_does_not_count() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with random_state_kept():
        torch.rand(100)
    assert torch.equal(torch.rand(2), expected)
