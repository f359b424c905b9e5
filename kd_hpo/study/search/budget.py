"""What ends a search before it has had all its trials, hours or a value that is good enough, and a trial that takes too long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from statistics import NormalDist, mean, median, stdev

from pydantic import Field, NonNegativeFloat, ValidationError

from kd_hpo.config.search import Budgets
from kd_hpo.config.settings import Settings
from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.store.folder import StudyFolder, TrialStatus

USED = "search_time.json"
_HOUR = 3600.0
_WRITES_EVERY_S = 10.0
_FEWEST, _LATEST, _STEPS = 4, 12, 400
"""Completed trials that a further hour is judged by, at least and at most; points of an integral over what they may reach."""


class _Used(Settings):
    """The file of a search's time, in seconds: of all drivers together."""

    search: NonNegativeFloat = 0.0
    closed: NonNegativeFloat | None = None
    """The `search.hours` that have left no time for another trial: of those, none is asked for again."""
    trials: dict[str, NonNegativeFloat] = Field(default={})
    """Of trials that have not ended, in earlier attempts."""


class Budget:
    """The time that a study's search has had, over all its drivers, and what it has left; it stands in the study's folder.

    Hours are those of the clock while trials of the search or of its race run. A trial is asked for while it would end in time,
    by the median of those that completed; what still runs when the hours are over is stopped after an epoch.

    clock  in seconds, from wherever
    Raises StudyError where the file of the time is broken.
    """

    def __init__(self, study: StudyConfig, folder: StudyFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._of: Budgets = study.search
        self._goal, self._folder, self._clock = study.goal, folder, clock
        used = _read(folder)
        self._before, self._closed, self._trials = used.search, used.closed, dict(used.trials)
        self._since: float | None = None
        self._running = dict[str, float]()
        self._written = clock()
        self._took, self._values = list[float](), list[float]()
        self._reached = ""
        for status in sorted(folder.statuses(), key=lambda each: each.spec.id):
            if status.spec.kind == "search" and status.state == "completed":
                self.completed(status, folder.records(status.spec.id)[-1].metrics.get(self._goal.key))

    # ---- what it says

    @property
    def used_s(self) -> float:
        return self._before + (self._clock() - self._since if self._since is not None else 0.0)

    @property
    def left_s(self) -> float | None:
        """The seconds that are left of the hours; None where they have no limit."""
        return None if self._of.hours is None else max(self._of.hours * _HOUR - self.used_s, 0.0)

    @property
    def over(self) -> str:
        """Why no other trial is asked for; empty while one is."""
        if self._reached:
            return f"{self._reached} reached search.until {self._of.until:g}"
        return "" if self.has_time else f"search.hours {self._of.hours:g} leave no time for another trial"

    @property
    def has_time(self) -> bool:
        """Whether a trial that starts now would end within the hours."""
        left = self.left_s
        return left is None or (
            self._of.hours != self._closed and left > 0 and left >= (median(self._took) if self._took else 0.0)
        )

    def close(self) -> str:
        """Gives why no other trial is asked for, and stays with it: later trials may be shorter than those it was judged by."""
        if not self.has_time:
            self._closed = self._of.hours
        return self.over

    def stops(self, trial: str, seconds: float) -> str:
        """Why a trial is stopped that has just ended an epoch; empty where it goes on.

        seconds  that its attempt has taken
        """
        self._running[trial] = seconds
        if self._clock() - self._written > _WRITES_EVERY_S:
            self.write()
        if self._of.trial_hours is not None and self._trials.get(trial, 0.0) + seconds >= self._of.trial_hours * _HOUR:
            return f"as it took longer than search.trial_hours {self._of.trial_hours:g}"
        return f"as search.hours {self._of.hours:g} were over" if self.left_s == 0 else ""

    def further_hour(self) -> str:
        """What another hour would probably bring, if the next trials spread as the latest did, in words."""
        latest = self._values[-_LATEST:]
        if len(latest) < _FEWEST or not self.used_s:
            return f"too few trials have completed ({len(self._values)}) to say what another hour would bring"
        trials = len(self._values) * _HOUR / self.used_s
        gain, chance = expected_gain(latest, max(self._values), trials)
        change = self._goal.worth(gain)
        several = "" if round(trials) == 1 else "s"
        return (
            f"another hour (about {trials:.0f} completed trial{several}) would probably change the best {self._goal.name} by "
            f"{change:+.2g}, and better it at all with a chance of {chance:.0%}, if they spread as the last {len(latest)} did"
        )

    # ---- what it is told

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the time inside; it is written now and then, and at the end."""
        self._since = self._clock()
        try:
            yield
        finally:
            self._before, self._since = self.used_s, None
            with suppress(OSError):  # of a full disk, which has ended the search itself
                self.write()

    def completed(self, status: TrialStatus, value: float | None) -> None:
        """Takes note of a trial of a search that has completed, with what the search goes by after its last epoch."""
        self._forget(status.spec.id)
        self._took.append(status.duration_s)
        if value is None or not isfinite(value):
            return
        self._values.append(self._goal.worth(value))
        if self._of.until is not None and not self._reached and self._goal.worth(value) >= self._goal.worth(self._of.until):
            self._reached = f"{status.spec.id} ({self._goal.name} {value:.4f})"

    def ended(self, status: TrialStatus, value: float | None) -> None:
        """Takes note of a trial that has ended, however it has."""
        if status.state == "completed":
            self.completed(status, value)
        self._forget(status.spec.id)

    def write(self) -> None:
        """Writes the time that has been used. Raises OSError."""
        self._written = self._clock()
        trials = self._trials | {name: self._trials.get(name, 0.0) + seconds for name, seconds in self._running.items()}
        self._folder.write(
            self._folder.root / USED, _Used(search=self.used_s, closed=self._closed, trials=trials).model_dump_json()
        )

    def _forget(self, trial: str) -> None:
        self._trials.pop(trial, None)
        self._running.pop(trial, None)


def expected_gain(values: list[float], best: float, trials: float) -> tuple[float, float]:
    """Gives by how much the best of further trials is above `best` in the mean, and the chance that it is at all.

    values  of trials like them, of which higher is better; theirs are taken to be normal, with the same mean and deviation
    trials  how many come, 0 or more
    """
    spread = stdev(values)
    if not spread:
        return 0.0, 0.0
    normal = NormalDist(mean(values), spread)
    chance = 1 - normal.cdf(best) ** trials
    step = 8 * spread / _STEPS
    above = (best + (number + 0.5) * step for number in range(_STEPS))
    return sum((1 - normal.cdf(x) ** trials) * step for x in above), chance


def _read(folder: StudyFolder) -> _Used:
    path = folder.root / USED
    try:
        return _Used.model_validate_json(path.read_bytes()) if path.is_file() else _Used()
    except ValidationError as error:
        raise StudyError(
            f"{path} is broken; remove it to count the hours of the search anew, and go on: {folder.resume}"
        ) from error
