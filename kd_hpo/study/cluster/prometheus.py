"""What Prometheus can read of a study, beside Ray's own, at the metrics endpoint of each node of a cluster.

Ray puts `ray_` before the names; docker/grafana and docker/prometheus ask for them.
"""

import os
from collections import Counter as Counts
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, get_args

from ray import tune
from ray.util.metrics import Counter, Gauge

from kd_hpo.study.cluster.connection import this_node
from kd_hpo.study.environment import NODE_NAME, prepare_environment
from kd_hpo.study.store.folder import State, StudyFolder, TrialSpec
from kd_hpo.trial.stopwatch import EpochTime

TRIALS, STEPS, TRAINING, HYPERGRADIENT = (
    "kd_hpo_trials",
    "kd_hpo_steps",
    "kd_hpo_training_seconds",
    "kd_hpo_hypergradient_seconds",
)
NAMES = (TRIALS, *(f"{counter}_total" for counter in (STEPS, TRAINING, HYPERGRADIENT)))
"""As Prometheus has them behind `ray_`."""
_OF_TRIALS = ("study", "state")
_OF_TRAINING = ("study", "method")


class StudyMetrics(tune.Callback):  # type: ignore[misc]
    """Counts the trials of a study by state, as its folder has them."""

    def __init__(self, study: str, folder: StudyFolder) -> None:
        self._study, self._folder = study, folder
        self._states = {status.spec.id: status.state for status in folder.statuses()}
        self._trials = Gauge(TRIALS, "Trials of a study by state", _OF_TRIALS)
        self._show()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray keeps a copy of its callbacks on disk, and nobody reads it

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._states[trial.config["spec"]["id"]] = "running"
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial)

    def _ended(self, trial: Any) -> None:
        status = self._folder.status(trial.config["spec"]["id"])
        self._states[trial.config["spec"]["id"]] = status.state if status else "failed"
        self._show()

    def _show(self) -> None:
        counts = Counts(self._states.values())
        for state in get_args(State):
            self._trials.set(counts[state], {"study": self._study, "state": state})


def in_worker(
    sampled: dict[str, Any], *, worker: Callable[..., None], study: str, objects: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Runs a trial in a process of Ray: `worker` is `execute` with all that the driver knows.

    objects  networks and data that were given as Python objects, by their digests
    """
    if objects:
        from kd_hpo.trial.given import remember

        remember(objects)
    prepare_environment()  # a node of a cluster has its own
    os.environ[NODE_NAME] = this_node()
    worker(sampled, report=tune.report, timed=partial(count, study))


def count(study: str, spec: TrialSpec, took: EpochTime) -> None:
    steps, seconds, of_hypergradient = counters()
    tags = {"study": study, "method": spec.method}
    steps.inc(took.steps, tags)
    seconds.inc(took.duration_s, tags)
    if took.hypergradient_s:  # Ray refuses to count nothing
        of_hypergradient.inc(took.hypergradient_s, tags)


@cache
def counters() -> tuple[Counter, Counter, Counter]:
    """The counters of this process; Prometheus takes their rates: steps a second, and the hypergradient's share of the time."""
    return (
        Counter(STEPS, "Training steps", _OF_TRAINING),
        Counter(TRAINING, "Seconds that training steps took", _OF_TRAINING),
        Counter(HYPERGRADIENT, "Seconds of them in which lambda learned", _OF_TRAINING),
    )
