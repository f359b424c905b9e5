"""How long epochs took, as a trial tells it."""

import time
from pathlib import Path

import pytest
import torch

from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.stopwatch import EpochTime, Stopwatch
from tests.conftest import digits_trial


def test_only_time_inside_counts_and_once() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            time.sleep(0.02)
        time.sleep(0.1)
    assert 0.04 <= watch.take_seconds() < 0.2
    assert watch.take_seconds() == 0


@pytest.mark.parametrize(
    ("weighting", "learns"), [({"kind": "learned", "warmup": 0, "hold": 0.5}, True), ({"kind": "uniform"}, False)]
)
def test_a_trial_tells_steps_and_the_hypergradients_time(
    prepared: Prepared, cache: Path, weighting: dict[str, object], learns: bool
) -> None:
    told: list[EpochTime] = []
    run_trial(digits_trial(weighting=weighting), lambda _: None, cache=cache, prepared=prepared, timed=told.append)
    assert [epoch.steps for epoch in told] == [7, 7, 7, 7]
    assert all(0 <= epoch.hypergradient_s < epoch.duration_s for epoch in told)
    assert [epoch.hypergradient_s > 0 for epoch in told] == [learns, learns, False, False]
