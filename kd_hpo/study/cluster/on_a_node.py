"""Has a node of the cluster compute what a study needs beside its trials, with what a trial has; the driver only waits."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import Note, StudyError
from kd_hpo.study.cluster.connection import first_line
from kd_hpo.study.cluster.memory import NodeMemory, node_memory

T = TypeVar("T")
Progress = Callable[[str], None]

_LOOKS_EVERY_S = 0.2
_ANSWER_S = 30.0


def on_a_node(study: StudyConfig, work: Callable[[Progress], T], tell: Progress) -> T:
    """Calls `work` in a process of a node that has a trial's resources, and gives what it returns.

    tell  is told here what `work` tells there
    It is called again, as often as `resources.max_failures` says, where its process or node is lost. Raises what it raises, and
    StudyError where it is lost once more; an interrupt here interrupts it there.
    """
    wanted, lines = study.resources, Queue(actor_options={"num_cpus": 0})
    there = ray.remote(
        num_cpus=wanted.cpus_per_trial, num_gpus=wanted.gpus_per_trial, resources=dict(wanted.custom_per_trial), max_retries=0
    )(_told)
    try:
        for left in reversed(range(wanted.max_failures + 1)):
            try:
                found: T = _followed(there.remote(work, lines), lines, tell)
                return found
            except RayTaskError as error:
                raise error.cause from error
            except RayError as error:
                words = f"a node has lost what it computed for the study ({first_line(error)})"
                if not left:
                    raise StudyError(f"{words}; look at its memory and its logs, and go on with the same command") from error
                tell(Note(f"{words}; it is computed again"))
        raise AssertionError("range(1) is not empty")
    finally:
        lines.shutdown(force=True)


def _told(work: Callable[[Progress], T], lines: Queue) -> T:
    return work(partial(_put, lines))


def _put(lines: Queue, words: str) -> None:
    lines.put(words)


def _followed(running: Any, lines: Queue, tell: Progress) -> Any:
    try:
        ended = False
        while not ended:
            ended = bool(ray.wait([running], timeout=_LOOKS_EVERY_S)[0])
            for words in lines.get_nowait_batch(lines.qsize()):
                tell(words)
        return ray.get(running)
    except KeyboardInterrupt:
        ray.cancel(running)
        raise


def memory_of(name: str) -> NodeMemory | None:
    """Asks a node how its memory stands; None where it is gone, or does not answer in time."""
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeName"] == name]
    if not alive:
        return None
    on_it = NodeAffinitySchedulingStrategy(alive[0], soft=False)
    try:
        asked = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=on_it)(node_memory).remote()
        found: NodeMemory = ray.get(asked, timeout=_ANSWER_S)
    except RayError:
        return None
    return found
