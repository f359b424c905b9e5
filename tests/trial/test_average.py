"""The running average of weights: its formula, and that it leaves the network as it was."""

import pytest
import torch
from torch import nn

from kd_hpo.config.training import Ema
from kd_hpo.trial.average import Average


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_follows_its_formula_and_a_state_goes_on(warmup: bool) -> None:
    settings, net = Ema(decay=0.4, warmup=warmup), network()
    average, expected = Average(settings, net), net[0].weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            net[0].weight += step
            net[1].running_mean += 1
        average.update()
        decay = min(0.4, (1 + step) / (10 + step)) if warmup else 0.4
        expected = decay * expected + (1 - decay) * net[0].weight.detach()
        other = Average(settings, network())
        other.load_state_dict(average.state_dict())
        average = other  # goes on with another network, that of a resumed trial
        average._network = net
    with average.standing_in():
        torch.testing.assert_close(net[0].weight.detach(), expected)
        assert 4 < float(net[1].running_mean[0]) < 6  # statistics are averaged too
    assert float(net[1].running_mean[0]) == 6


def test_the_network_is_as_it_was_after_its_average_stood_in() -> None:
    net = network()
    average = Average(Ema(), net)
    with torch.no_grad():
        net[0].weight += 1
        net[1].num_batches_tracked += 5
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(KeyError), average.standing_in():
        assert not torch.equal(net[0].weight, before["0.weight"])
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_state_of_another_network_is_refused() -> None:
    average = Average(Ema(), network())
    with pytest.raises((KeyError, ValueError)):
        average.load_state_dict(Average(Ema(), nn.Linear(3, 4)).state_dict())
