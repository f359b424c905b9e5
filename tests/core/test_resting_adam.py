"""Adam that leaves numbers out, against torch's own Adam of each number by itself."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import Adam

from kd_hpo.core.resting_adam import RestingAdam

STEPS = 12


def gradients(shape: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def started(shape: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, shape[0] * shape[1], dtype=torch.float64).view(shape))


@pytest.mark.parametrize("first", [0, 5], ids=["from the start", "later"])
def test_a_number_takes_the_steps_that_it_is_in_and_no_others(first: int) -> None:
    """Each of 2 x 3 numbers rests at steps of its own; another parameter never does."""
    shape = (2, 3)
    together, beside = started(shape), started((1, 2))
    alone = [nn.Parameter(x.clone()) for x in together.detach().flatten()]
    ours, theirs = RestingAdam([{"params": [together, beside], "lr": 0.1}]), [Adam([p], lr=0.1) for p in alone]
    moves = torch.rand(STEPS, *shape, generator=torch.Generator().manual_seed(1)) > 0.5
    moves[:first] = True
    moves[first : first + 2, 0, 0] = False
    for number, g in enumerate(gradients(shape)):
        together.grad, beside.grad = torch.where(moves[number], g, 0.0), g[:1, :2].clone()
        before = together.detach().clone()
        ours.step_but({} if moves[number].all() else {together: ~moves[number]})
        for p, optimizer, moved, one in zip(alone, theirs, moves[number].flatten(), g.flatten(), strict=True):
            p.grad = one.clone() if moved else None
            optimizer.step()
        assert torch.equal(together[~moves[number]], before[~moves[number]])
    torch.testing.assert_close(together.detach().flatten(), torch.stack([p.detach() for p in alone]), rtol=1e-9, atol=1e-12)
    whole = started((1, 2))
    plain = Adam([whole], lr=0.1)
    for g in gradients(shape):
        whole.grad = g[:1, :2].clone()
        plain.step()
    torch.testing.assert_close(beside, whole, rtol=1e-9, atol=1e-12)


def test_what_rests_keeps_its_moments_and_its_count_and_goes_on_from_its_state() -> None:
    shape = (2, 3)
    rests = torch.tensor([[True, False, False], [True, True, False]])
    p, q = started(shape), started(shape)
    optimizer, resumed = RestingAdam([{"params": [p], "lr": 0.1}]), RestingAdam([{"params": [q], "lr": 0.1}])
    *first, last = gradients(shape)
    for number, g in enumerate(first):
        p.grad = g
        optimizer.step_but({p: rests} if number == 4 else {})
        if number == 3:
            before = {name: optimizer.state[p][name].clone() for name in ("exp_avg", "exp_avg_sq")}
        if number == 4:
            assert all(torch.equal(optimizer.state[p][name][rests], kept[rests]) for name, kept in before.items())
            assert optimizer.state[p]["counts"].tolist() == [[4, 5, 5], [4, 4, 5]]
    with torch.no_grad():
        q.copy_(p)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for one, of in ((p, optimizer), (q, resumed)):
        one.grad = last
        of.step_but({one: rests})
    assert torch.equal(p, q)


def test_where_nothing_rests_it_is_adam_to_the_last_bit() -> None:
    p, q = (nn.Parameter(started((2, 3)).detach().float()) for _ in range(2))
    ours, theirs = RestingAdam([{"params": [p], "lr": 0.1}]), Adam([q], lr=0.1, fused=True)
    for g in gradients((2, 3)):
        p.grad, q.grad = g.float(), g.float()
        ours.step_but({})
        theirs.step()
    assert torch.equal(p, q)
