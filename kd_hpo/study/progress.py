"""What a person sees while a study runs: a live line on a terminal, plain lines in a log."""

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console
from rich.live import Live
from rich.text import Text

from kd_hpo.study.folder import StudyFolder, TrialSpec, TrialStatus
from kd_hpo.study.search import EPOCH
from kd_hpo.trial.result import METRIC

_SECONDS_BETWEEN_LINES = 10.0


class Board(TrialProgressCallback):  # type: ignore[misc]
    """Counts trials by state, keeps the best accuracy so far, and tells how long the phase will still take.

    Stands in for Ray's own callback of that kind, which Ray adds where there is none.
    trials and epochs say how much work the phase is; a terminal shows one live line, anything else a line now and then.
    """

    def __init__(self, console: Console, title: str, folder: StudyFolder, *, trials: int, epochs: int) -> None:
        self._console, self.name, self._folder = console, title, folder
        self._trials, self._epochs = trials, epochs
        self._reported: dict[str, int] = {}
        self._ended: dict[str, str] = {}
        self._best: tuple[float, str] | None = None
        self._started = self._told = time.monotonic()
        self._live = (
            Live(console=console, get_renderable=self._line, refresh_per_second=2, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()
        self._console.print(self._line())

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps a copy of its callbacks on disk; the terminal cannot go there, and nobody reads it

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._reported.setdefault(_name(trial), 0)
        self._tell()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        if METRIC not in result:
            return
        self._reported[_name(trial)] = max(self._reported.get(_name(trial), 0), result[EPOCH])
        if self._best is None or result[METRIC] > self._best[0]:
            self._best = (result[METRIC], _name(trial))
        self._tell()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        status = self._folder.status(_name(trial))
        if status and status.state == "running":  # the scheduler ends it, and its process has not come to say so
            words = f"after epoch {self._reported.get(_name(trial), 0)}, by the scheduler"
            status = status.replace(state="stopped", message=words)
            self._folder.write_status(status)
        self._end(_name(trial), status)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process died, or raised, more often than `max_failures` allows."""
        status = self._folder.status(_name(trial))
        if status is None or status.state == "running":
            spec = TrialSpec.model_validate(trial.config["spec"])
            said = status.message if status else ""  # what it raised, where it could still write that
            status = TrialStatus(spec=spec, state="failed", message=said or _last_line(trial))
            self._folder.write_status(status)
        self._end(_name(trial), status)

    def _end(self, name: str, status: TrialStatus | None) -> None:
        self._ended[name] = status.state if status else "failed"
        if status and status.state == "failed":
            self._console.print(Text(f"{name} failed: {status.message}", style="red"))
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if self._live is None and now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            self._console.print(self._line())

    def _line(self) -> Text:
        ended = Counter(self._ended.values())
        running = len(self._reported) - len(self._ended)
        text = Text.assemble((f"{self.name}  ", "bold"), f"{len(self._ended)}/{self._trials} trials: {running} running")
        for state, style in (("completed", "green"), ("stopped", "yellow"), ("failed", "red")):
            text.append(f", {ended[state]} {state}", style if ended[state] else "")
        if self._best:
            text.append(f"  best {self._best[0]:.4f} ({self._best[1]})")
        left = self._seconds_left()
        return text.append(f"  {_clock(time.monotonic() - self._started)}" + (f", about {_clock(left)} left" if left else ""))

    def _seconds_left(self) -> float:
        """From the epochs seen so far; an ended trial has no more, one not started counts in full."""
        seen = sum(self._reported.values())
        if not seen:
            return 0.0
        per_epoch = (time.monotonic() - self._started) / seen
        waiting = max(self._trials - len(self._reported), 0) * (
            seen / max(len(self._reported), 1) if self._ended else self._epochs
        )
        running = sum(self._epochs - done for name, done in self._reported.items() if name not in self._ended)
        return per_epoch * (waiting + running)


def _name(trial: Any) -> str:
    return str(trial.config["spec"]["id"])


def _last_line(trial: Any) -> str:
    error = trial.get_error()
    lines = [line for line in str(error or "").strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "its process ended without a word"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
