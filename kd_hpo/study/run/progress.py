"""What a person sees while a study runs: a live view on a terminal, plain lines in a log."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kd_hpo.config.task import Goal
from kd_hpo.config.wording import one_line
from kd_hpo.study.report.words import shorten
from kd_hpo.study.results.pairs import strongest_pairs
from kd_hpo.study.run.failure import failure_line
from kd_hpo.study.run.status_keeper import StatusKeeper, id_of
from kd_hpo.study.search.method_search import EPOCH
from kd_hpo.study.status_line import say
from kd_hpo.study.store.folder import StudyFolder

_SECONDS_BETWEEN_LINES = 10.0
_STATES = {"completed": "green", "stopped": "yellow", "failed": "red"}
_LINES_AROUND_TRIALS = 11
"""Of the live view, beside those of running trials."""
_FEWEST_TRIALS, _PAIRS = 3, 3
_NOTHING = 0.0005
"""A weight that would be told as 0.000."""


class ProgressReporter(TrialProgressCallback):  # type: ignore[misc]
    """Shows trials by state, the best score so far, and how long the phase will still take; it writes nothing.

    Stands in for Ray's own callback of that kind, which Ray adds where there is none.

    keeper      says how trials have ended; Ray is given it before
    goal        the metric that is shown, and which way of it is better
    trials      how much work the phase is, with
    epochs      of a trial
    layers      names of the teacher's and the student's layers, for the pairs of the best trial
    each_epoch  a line for each epoch of each trial, and no live view
    at_most_s   the seconds after which the phase asks for nothing more; None where there is no such limit
    A terminal shows a view that changes, anything else a line now and then.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        folder: StudyFolder,
        keeper: StatusKeeper,
        *,
        goal: Goal,
        trials: int,
        epochs: int,
        layers: tuple[Sequence[str], Sequence[str]],
        each_epoch: bool = False,
        at_most_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._console, self.name, self._folder, self.keeper = console, title, folder, keeper
        self._goal, self._trials, self._epochs, self._layers, self._each_epoch = goal, trials, epochs, layers, each_epoch
        self.halt, self._at_most_s = keeper.stopper, at_most_s
        self._reported: dict[str, int] = {}
        self._score: dict[str, float] = {}
        self._ended: dict[str, str] = {}
        self._best: tuple[float, str] | None = None
        self._best_pairs: list[tuple[float, str, str]] = []
        self._started = self._told = time.monotonic()
        self._first_result: float | None = None
        live = console.is_interactive and not each_epoch
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=4, transient=True) if live else None

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
        self._reported.setdefault(id_of(trial), 0)
        self._tell()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        metric = self._goal.on("val")
        if metric not in result:
            return
        name = id_of(trial)
        self._first_result = self._first_result or time.monotonic()
        self._reported[name] = max(self._reported.get(name, 0), result[EPOCH])
        self._score[name] = result[metric]
        self._follow_the_best()
        if self._each_epoch:
            told = f"{self._goal.name} on val {result[metric]:.4f}"
            say(self._console, f"{name}: epoch {result[EPOCH]} of {self._epochs}, {told}")
        self._tell()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(id_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(id_of(trial))

    def _end(self, name: str) -> None:
        status = self.keeper.end_of(name)
        self._ended[name] = status.state if status else "failed"
        self._follow_the_best()
        if status and status.state == "failed":
            say(self._console, failure_line(self._folder, status), "red")
        self._tell()

    def _follow_the_best(self) -> None:
        """The completed trial that is best after its last epoch, as MLflow has it; of all as they stand, while none is."""
        done = [name for name, state in self._ended.items() if state == "completed" and name in self._score]
        name = max(done or self._score, key=lambda each: self._goal.worth(self._score[each]), default=None)
        best = (self._score[name], name) if name else None
        if name and best != self._best:
            self._best, self._best_pairs = best, self._pairs_of(name)

    def _tell(self) -> None:
        now = time.monotonic()
        if self._live is None and now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            self._console.print(self._line())

    # ---- one line

    def _line(self) -> Text:
        text = Text.assemble((f"{self.name}  ", "bold"), f"{len(self._ended)}/{self._trials} trials: ", self._states())
        if self._best:
            text.append(f"  best {self._best[0]:.4f} ({self._best[1]})")
        return text.append(f"  {self._clocks()}")

    def _states(self) -> Text:
        ended = Counter(self._ended.values())
        text = Text(f"{len(self._reported) - len(self._ended)} running")
        for state, style in _STATES.items():
            text.append(f", {ended[state]} {state}", style if ended[state] else "")
        return text

    def _clocks(self) -> str:
        left = self._seconds_left()
        return _clock(time.monotonic() - self._started) + (f", about {_clock(left)} left" if left else "")

    # ---- the live view

    def _view(self) -> RenderableType:
        """How much is done, the trials that run, the best one so far and its strongest pairs."""
        running = [name for name in list(self._reported) if name not in self._ended]
        room = max(self._console.height - _LINES_AROUND_TRIALS, _FEWEST_TRIALS)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        shown = f"{self._goal.name} on val"
        for heading, where in (("running", "left"), ("epoch", "right"), ("", "left"), (shown, "right")):
            table.add_column(heading, justify=where, header_style="dim", no_wrap=True)  # type: ignore[arg-type]
        for name in running[:room]:
            done, score = self._reported[name], self._score.get(name)
            bar = ProgressBar(total=self._epochs, completed=done, width=16)
            table.add_row(name, f"{done}/{self._epochs}", bar, f"{score:.4f}" if score is not None else "-")
        more = [Text(f"and {len(running) - room} more", "dim")] if len(running) > room else []
        if not running and self._best is None:
            return Group(*self._header(), Text(), Text("the processes of the trials are starting", "dim"))
        return Group(*self._header(), Text(), *([table] if running else []), *more, Text(), *self._best_so_far())

    def _header(self) -> list[RenderableType]:
        """A bar as wide as the terminal has room for beside the words."""
        counted, clocks = f"{len(self._ended)}/{self._trials} trials", self._clocks()
        width = self._console.width - len(self.name) - len(counted) - len(clocks) - 7
        total, line = self._trials * self._epochs, Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=total, completed=total - self._epochs_left(), width=max(min(width, 40), 4))
        line.add_row(Text(self.name, "bold"), bar, counted, clocks)
        return [line, self._states()]

    def _best_so_far(self) -> list[RenderableType]:
        if self._best is None:
            return [Text("no trial has come to the end of its first epoch yet", "dim")]
        best = Text.assemble("best so far ", (f"{self._best[0]:.4f}", "bold"), f" by {self._best[1]}")
        if not self._best_pairs:
            return [best]
        room = max((self._console.width - len("0.123   -> ")) // 2, 8)
        named = [(weight, shorten(teacher, room), shorten(student, room)) for weight, teacher, student in self._best_pairs]
        pairs = [Text(f"{weight:.3f}  {teacher} -> {student}", no_wrap=True) for weight, teacher, student in named]
        return [best.append(", whose strongest pairs are"), *pairs]

    def _pairs_of(self, trial: str) -> list[tuple[float, str, str]]:
        """Weights and names of the strongest pairs after the trial's last epoch.

        None for a method without a matrix, or with layers of its own.
        """
        records = self._folder.records(trial)
        weights = records[-1].weights if records else ()
        teacher, student = self._layers
        if len(weights) != len(teacher) or {len(row) for row in weights} != {len(student)}:
            return []
        largest = strongest_pairs(weights, _PAIRS, above=_NOTHING)
        return [(weights[t][s], one_line(teacher[t]), one_line(student[s])) for t, s in largest]

    # ---- time

    def _seconds_left(self) -> float:
        """From the pace since the first result: the start of the trials' processes comes once, and is long."""
        since, at_most = sum(self._reported.values()) - 1, self._at_most_s()
        if self._first_result is None or since < 1:
            return 0.0
        left = (time.monotonic() - self._first_result) / since * self._epochs_left()
        return left if at_most is None else min(left, at_most)

    def _epochs_left(self) -> float:
        """An ended trial has no more, one that has not started counts as those before it on average."""
        seen = sum(self._reported.values())
        each = seen / len(self._reported) if self._ended else self._epochs
        running = sum(self._epochs - done for name, done in list(self._reported.items()) if name not in self._ended)
        return max(self._trials - len(self._reported), 0) * each + running


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
