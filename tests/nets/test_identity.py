"""Networks that compute something else have another digest, in every process the same."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kd_hpo.nets.identity import network_digest


class Renormalised(nn.Module):
    def __init__(self, mean: object, offset: float = 0.0) -> None:
        super().__init__()
        self.mean, self.offset = mean, offset
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - self.mean) + self.offset  # type: ignore[no-any-return]


def network(mean: object = 0.0, **more: float) -> Renormalised:
    torch.manual_seed(0)
    return Renormalised(mean, **more)


def with_buffer(value: float) -> nn.Module:
    made = network()
    made.register_buffer("scale", torch.tensor(value), persistent=False)
    return made


def hooked(by: float) -> nn.Module:
    made = network()
    made.linear.register_forward_hook(partial(_times, by))
    return made


def _times(by: float, module: nn.Module, given: object, output: Tensor) -> Tensor:
    return by * output


def patched(by: float) -> nn.Module:
    made = network()
    made.linear.forward = lambda x: by * x  # type: ignore[method-assign]
    return made


def hidden(seed: int) -> nn.Module:
    made = network()
    torch.manual_seed(seed)
    made.others = [nn.Linear(2, 2)]  # type: ignore[assignment]
    return made


def quantised(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3)), {nn.Linear})


@pytest.mark.parametrize(
    "make",
    [network, lambda x: network(offset=x), lambda x: network(torch.tensor(x)), lambda x: network({"of": [(x,)]}), with_buffer,
     hooked, patched, lambda x: hidden(int(x)), lambda x: quantised(int(x))],
    ids=["number", "argument", "tensor", "nested", "buffer that is not saved", "hook", "forward", "hidden module", "quantised"],
)  # fmt: skip
def test_what_acts_on_the_output_is_told_apart(make: Callable[[float], nn.Module]) -> None:
    assert network_digest(make(1.0)) == network_digest(make(1.0)) != network_digest(make(2.0))


def test_a_pass_changes_nothing() -> None:
    made = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout()).eval()
    before = network_digest(made)
    made(torch.zeros(2, 4))
    made.train()
    assert network_digest(made) == before


def test_code_of_ones_own_counts_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_told.py").write_text(
        "from torch import nn\nfrom help_told import double\nclass Net(nn.Module):\n    forward = double\n"
    )
    code = "import sys; sys.path.append('.'); import net_told; from kd_hpo.nets.identity import network_digest as d\n"
    code += "print(d(net_told.Net()))"

    def told(text: str, seed: str) -> str:
        (tmp_path / "help_told.py").write_text(text)
        environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout

    first = "def double(self, x):\n    return 2 * x if x in {'a', 'b', 'c'} else x\n"
    assert told(first, "1") == told(first, "2") != told(first.replace("2", "3"), "1")
