"""Wrappers of networks, and their number formats."""

import pytest
import torch
from torch import nn

from kd_hpo.nets.layer_names import resolve_layers
from kd_hpo.nets.wrappers import in_dtype, unwrapped


class Compiled(nn.Module):
    """As what torch.compile returns, without the seconds that its import takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network


COMPILE = pytest.param(torch.compile, marks=pytest.mark.slow, id="compile")


@pytest.mark.parametrize("wrap", [nn.DataParallel, COMPILE, Compiled, lambda net: nn.DataParallel(Compiled(net))])
def test_wrappers_are_taken_off_and_told(wrap: object) -> None:
    network, told = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), list[str]()
    assert unwrapped(wrap(network), "own:net", told.append) is network  # type: ignore[operator]
    assert told and all("own:net" in words and "taken off" in words for words in told)
    assert unwrapped(network, "own:net", told.clear) is network and told  # type: ignore[arg-type]


def test_layers_keep_the_names_that_they_have_in_a_wrapper() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    names = ("module.0", "_orig_mod.1", "module._orig_mod.1:input", "1")
    assert resolve_layers(network, names, (1, 2, 2)) == ("0", "1", "1:input")
    own = nn.ModuleDict({"module": network})
    assert resolve_layers(own, ("module.1",), (1, 2, 2)) == ("module.1",)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_other_formats_are_taken_in_that_of_the_images(dtype: torch.dtype) -> None:
    network, told = nn.Linear(2, 2).to(dtype), list[str]()
    assert in_dtype(network, "own:net", told.append).weight.dtype == torch.get_default_dtype()
    (words,) = told
    assert str(dtype).removeprefix("torch.") in words
    in_dtype(network, "own:net", told.append)
    assert len(told) == 1
