"""torch.compile of the plain step beside passes that run as they are."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from kd_hpo.errors import ConfigError
from kd_hpo.trial import state
from kd_hpo.trial.parts import Prepared
from kd_hpo.trial.run import run_trial
from tests.conftest import digits_trial

LEARNED = {"kind": "learned", "every": 2, "evidence": False}


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
    with pytest.raises(ConfigError, match="compile: false") as told:
        run_trial(digits_trial(compile=True), lambda _: None, cache=cache, prepared=prepared)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_inductor_compiles_a_trial(cache: Path, prepared: Prepared) -> None:
    plain = run_trial(digits_trial(weighting=LEARNED), lambda _: None, cache=cache, prepared=prepared)
    found = run_trial(digits_trial(weighting=LEARNED, compile=True), lambda _: None, cache=cache, prepared=prepared)
    assert found.last.metrics["train/loss"] == pytest.approx(plain.last.metrics["train/loss"], rel=1e-2)
