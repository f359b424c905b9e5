"""torch.compile of the plain step beside passes that run as they are; how fast steps are under each choice of settings."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from kd_hpo.cli.bench import measured
from kd_hpo.cli.console import Output
from kd_hpo.errors import ConfigError
from kd_hpo.trial import state
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.run import run_trial
from kd_hpo.trial.speed import Speed, what_pays
from tests.conftest import digits_trial

LEARNED = {"kind": "learned", "every": 2}
COMPILE = torch.compile


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but its last step, which takes a C++ compiler a minute."""
    monkeypatch.setattr(state.torch, "compile", partial(COMPILE, backend="aot_eager"))


@pytest.mark.usefixtures("without_inductor")
def test_a_compiled_step_stands_beside_forward_mode(cache: Path, prepared: Prepared) -> None:
    """Lambda learns, the balance is measured, and the trial is the one that is not compiled, up to rounding."""
    plain = run_trial(digits_trial(weighting=LEARNED), lambda _: None, cache=cache, prepared=prepared)
    found = run_trial(digits_trial(weighting=LEARNED, compile=True), lambda _: None, cache=cache, prepared=prepared)
    torch.testing.assert_close(torch.tensor(found.held_mean), torch.tensor(plain.held_mean), rtol=1e-3, atol=1e-4)
    assert found.last.metrics["train/loss"] == pytest.approx(plain.last.metrics["train/loss"], rel=1e-3)


def test_what_cannot_be_compiled_is_told_in_a_line(cache: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BackendCompilerFailed(broken, RuntimeError("no C++ compiler\nat all"), None)  # type: ignore[no-untyped-call, arg-type]

    monkeypatch.setattr(state.torch, "compile", lambda *_, **__: broken)
    with pytest.raises(
        ConfigError, match=r"^compile is true, and torch.compile cannot do it here .*; set compile: false$"
    ) as told:
        run_trial(digits_trial(compile=True), lambda _: None, cache=cache, prepared=prepared)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_inductor_compiles_a_trial(cache: Path, prepared: Prepared) -> None:
    plain = run_trial(digits_trial(weighting=LEARNED), lambda _: None, cache=cache, prepared=prepared)
    found = run_trial(digits_trial(weighting=LEARNED, compile=True), lambda _: None, cache=cache, prepared=prepared)
    assert found.last.metrics["train/loss"] == pytest.approx(plain.last.metrics["train/loss"], rel=1e-2)


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


def speed(name: str, ratios: tuple[float, ...], first_s: float = 0.0) -> Speed:
    return Speed(name, {}, tuple(10 * ratio for ratio in ratios), ratios, first_s)


def test_what_pays_is_faster_in_every_block_over_the_whole_trial() -> None:
    own, cannot = speed("as it is", (1, 1, 1)), Speed("compile", {}, (), (), 0.0, "no compiler")
    fast, unsure, slow_start = (
        speed("fast", (0.8, 0.9, 0.85)),
        speed("unsure", (0.5, 0.6, 1.1)),
        speed("slow", (0.5, 0.5, 0.5), 60),
    )
    assert what_pays([own, cannot, unsure], 1000) is None
    assert what_pays([own, fast, unsure, slow_start], 1000) is fast  # 10 s, 8.5 s, -, 65 s
    assert what_pays([own, fast, slow_start], 100_000) is slow_start  # 1000 s, 850 s, 560 s
