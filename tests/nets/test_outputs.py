"""What a network returns, and which of it is taken for its output."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kd_hpo.errors import ConfigError, FeatureMismatch
from kd_hpo.nets.identity import network_digest
from kd_hpo.nets.outputs import TakeOutput, named_output, require_output, require_taken, take_output


class Named(NamedTuple):
    logits: Tensor
    aux: Tensor


@dataclass
class Data:
    logits: Tensor
    hidden: Tensor


WANTED, OTHER = torch.zeros(2, 3), torch.ones(2, 5)


@pytest.mark.parametrize(
    ("returned", "name"),
    [
        ((WANTED, OTHER), 0),
        ((OTHER, WANTED), "1"),
        ([OTHER, WANTED], -1),
        ({"out": WANTED, "aux": OTHER}, "out"),
        (Named(WANTED, OTHER), "logits"),
        (Named(WANTED, OTHER), 0),
        (Data(WANTED, OTHER), "logits"),
        ({"heads": [OTHER, WANTED]}, "heads.1"),
        ((Named(OTHER, WANTED), OTHER), "0.aux"),
    ],
)
def test_a_tensor_is_taken_by_its_key_field_or_place(returned: object, name: str | int) -> None:
    assert named_output(returned, name) is WANTED


@pytest.mark.parametrize("name", ["aux", 2, "0.logits", "logits.x"])
def test_a_name_that_is_not_there_is_told_with_those_that_are(name: str | int) -> None:
    with pytest.raises(FeatureMismatch, match=r"logits \(2, 3\), hidden \(2, 5\)"):
        TakeOutput(name)(nn.Identity(), (), Data(WANTED, OTHER))


class Auxiliary(nn.Module):
    """As Inception and GoogLeNet: more in training."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.fc, self.aux, self.always = nn.Linear(4, 3), nn.Linear(4, 3), always

    def forward(self, x: Tensor) -> Any:
        return Named(self.fc(x), self.aux(x)) if self.training or self.always else self.fc(x)


def test_auxiliary_outputs_of_training_are_left_and_not_trained() -> None:
    network, x = Auxiliary(), torch.randn(2, 4)
    take_output(network, "logits")
    trained = network.train()(x)
    assert torch.equal(trained, network.fc(x)) and torch.equal(trained, network.eval()(x))
    trained.sum().backward()
    assert network.fc.weight.grad is not None and network.aux.weight.grad is None


def test_an_output_of_a_network_that_returns_one_tensor_is_refused() -> None:
    network, x = nn.Linear(4, 3), torch.randn(2, 4)
    hook = take_output(network, 0)
    with pytest.raises(ConfigError, match="one tensor alone"):
        require_taken(hook, network, lambda: network(x))
    network = Auxiliary()
    require_taken(take_output(network, 0), network, lambda: network.train()(x))


def test_without_a_name_the_candidates_are_told_those_that_the_task_accepts_first() -> None:
    def refuses(output: object) -> str | None:
        return None if isinstance(output, Tensor) and output.shape == (2, 3) else "logits (B, 3)"

    with pytest.raises(FeatureMismatch, match=r"hidden \(2, 5\), logits \(2, 3\).*output: logits$"):
        require_output(nn.Identity(), {"hidden": OTHER, "logits": WANTED}, refuses)


def test_caches_of_a_network_are_named_by_what_is_taken() -> None:
    digests = set[str]()
    for name in ("logits", "aux"):
        torch.manual_seed(0)
        network = Auxiliary(always=True)
        take_output(network, name)
        network(torch.zeros(2, 4))
        digests.add(network_digest(network))
    assert len(digests) == 2


def test_it_is_taken_of_torchscript_too() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, 2 * x

    network = torch.jit.script(Pair())
    take_output(network, 1)
    assert torch.equal(network(WANTED + 1), 2 * (WANTED + 1))
