"""kd-hpo bench: the table of the choices, and what to set."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from kd_hpo.cli.bench import measured
from kd_hpo.cli.console import Output
from kd_hpo.trial import state
from tests.conftest import digits_trial

LEARNED = {"kind": "learned", "every": 2}


COMPILE = torch.compile


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but its last step, which takes a C++ compiler a minute."""
    monkeypatch.setattr(state.torch, "compile", partial(COMPILE, backend="aot_eager"))


@pytest.mark.usefixtures("without_inductor")
def test_bench_measures_every_choice_and_says_what_to_set(cache: Path) -> None:
    config = digits_trial(weighting=LEARNED)
    result = measured(config, cache, 1, "digits.yaml", steps=2, blocks=2, output=Output(quiet=True))
    document = json.loads(json.dumps(result.document))
    names = [speed["name"] for speed in document["speeds"]]
    assert names == [
        "as it is", "channels_last", "bfloat16", "bfloat16, channels_last", "compile", "compile, channels_last"
    ]  # fmt: skip
    assert all(speed["step_ms"] > 0 for speed in document["speeds"])
    assert document["speeds"][0]["ratio_range"] == [1, 1]
    assert document["steps_of_a_trial"] == 4 * 7
