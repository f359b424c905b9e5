"""What Ray Tune sees of the searches: a searcher that suggests their trials, and a stopper that ends poor ones.

Ray calls both in the driver's process, one call after the other; nothing else writes to the journal.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from kd_hpo.study.cluster.stopper import StudyStopper
from kd_hpo.study.search.budget import Budget
from kd_hpo.study.search.method_search import EPOCH, Asked, MethodSearch

__all__ = ["EPOCH", "PruningStopper", "StudySearch"]
TIME = "time_total_s"
"""Of a result: the seconds since its trial's attempt began, as Ray adds them."""


class StudySearch(Searcher):  # type: ignore[misc]
    """Suggests the trials of several methods' searches, one method after the other: they share what a worker has prepared.

    journal   named in the error of a disk that takes no more
    halt      ends the phase; from then on, nothing that Ray makes of its trials is told: they have not ended, and go on with
              the study. A journal that took half a line would be broken by the next one.
    given_up  has the record say why a trial is given up, by its id in the study; Ray tells of that only later
    budget    says when no new trial is asked for, and which is stopped; those that an earlier driver asked for go on
    stopped_for  is told why a trial is stopped that is not poor, by its id in the study
    """

    def __init__(
        self,
        searches: Sequence[MethodSearch],
        journal: Path,
        halt: StudyStopper | None = None,
        given_up: Callable[[str], None] = lambda _: None,
        budget: Budget | None = None,
        stopped_for: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        super().__init__()
        self._searches, self._budget, self._stopped_for = searches, budget, stopped_for
        self._given_up = given_up
        self._journal, self._halt = journal, halt or StudyStopper()
        self._waiting = [search for search in searches for _ in range(search.left)]
        self._asked: dict[str, tuple[MethodSearch, Asked]] = {}
        self._ended: set[str] = set()

    @property
    def left(self) -> int:
        """The number of trials that are still to be suggested."""
        return len(self._waiting)

    def suggest(self, trial_id: str) -> Any:
        with self._halt.on_error(self._journal):
            if trial_id not in self._asked:
                if self._budget and self._budget.close():
                    self._waiting = [search for search in self._searches for _ in range(search.unfinished)]
                if not self._waiting or self._halt.error:
                    return Searcher.FINISHED
                search = self._waiting.pop(0)
                self._asked[trial_id] = search, search.ask()
            return {"spec": self._asked[trial_id][1].spec.model_dump(mode="json")}
        return Searcher.FINISHED

    def is_to_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Takes the result of an epoch, and tells whether the scheduler or the budget stops the trial after it."""
        if self._halt.error:
            return False
        with self._halt.on_error(self._journal):
            search, asked = self._asked[trial_id]
            if search.judge(asked, result):
                return True
            why = self._budget.stops(asked.spec.id, result.get(TIME, 0.0)) if self._budget else ""
            if why and search.stop(asked, result, why):
                self._stopped_for(asked.spec.id, why)
                return True
        return False

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._asked and trial_id not in self._ended and not self._halt.error:
            self._ended.add(trial_id)
            with self._halt.on_error(self._journal):
                search, asked = self._asked[trial_id]
                if error:
                    self._given_up(asked.spec.id)
                search.end(asked, result or {}, failed=error)
                if self._budget and (status := search.status_of(asked)):
                    self._budget.ended(status, (result or {}).get(search.metric))

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the study's folder is the record."""


class PruningStopper(Stopper):  # type: ignore[misc]
    """A stopper that has Ray end the trials that are poor or take too long; Ray asks it before it passes a result on."""

    def __init__(self, search: StudySearch) -> None:
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._search.is_to_stop(trial_id, result)

    def stop_all(self) -> bool:
        return False
