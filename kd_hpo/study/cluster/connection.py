"""Ray on this machine, or the cluster that a study names: whether its nodes have what trials need, and how many run at once."""

import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from kd_hpo.config.study import StudyConfig
from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.loopback import on_loopback
from kd_hpo.study.cluster.node_check import Question, answer, question
from kd_hpo.study.cluster.signals import a_group_of_its_own, sigterm_kept
from kd_hpo.study.cluster.start import starting_in
from kd_hpo.study.cluster.user_code import UserCode, user_code
from kd_hpo.study.status_line import say, status_line
from kd_hpo.study.store.folder import StudyFolder

LOCAL = "local"
_ANSWER_S = 300.0
"""A node that has not answered by then would run no trial either: its first worker process has to start."""
_ATTEMPTS, _PATIENCE_S = 8, 300.0
"""To start Ray on this machine, and after how long no other one is made: Ray gives each half a minute."""
_SLOW_S = 15.0
_WAITS = {"RAY_gcs_server_port_wait_time_s": "120", "RAY_worker_register_timeout_seconds": "600"}
"""Limits of Ray's in seconds, of its start and of a worker's, as this machine has them where the environment sets none."""
_SEEN_S = 15.0
"""How long a network file system may take to show here what another machine has written."""


@contextmanager
def ray_running(study: StudyConfig, console: Console, *, verbose: bool = False) -> Iterator[None]:
    """Starts Ray on this machine, or connects to the cluster that the study names. Raises StudyError if there is none.

    Code of the user's own goes to every node of a cluster. A Ray that this process has joined already is used as it is.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's error is told by ProgressReporter, in a line
    if ray.is_initialized():
        yield
        return
    address = study.resources.address
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": "WARNING" if verbose else "ERROR"}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    empty = StudyFolder.of(study).ray / "start"
    empty.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="kd-hpo-code-") as staged:
        if code := code_for_nodes(study):
            code.copy_to(Path(staged))
            options["runtime_env"] = {"working_dir": staged}
        start_ray(address, options, console, empty)
    try:
        yield
    finally:
        shut_down()


def start_ray(address: str, options: Mapping[str, Any], console: Console, empty: Path) -> None:
    """Calls `ray.init`; on this machine it is tried again where that is too busy for Ray's own limits, and said.

    empty  a folder of no modules
    Raises StudyError where it does not work, or not in time.
    """

    def start(attempt: int = 1) -> None:
        with status_line(console) as progress, starting_in(empty), a_group_of_its_own(), sigterm_kept():
            progress("starting Ray" + (f": attempt {attempt}" if attempt > 1 else ""))
            ray.init(address=address, **options)

    if address == LOCAL:
        with on_loopback(), patiently():
            start_here(start, console)
        return
    try:
        start()
    except Exception as error:
        raise StudyError(f"no Ray cluster answers at resources.address {address!r}: {first_line(error)}") from error


def start_here(start: Callable[[int], None], console: Console) -> None:
    """Calls start with 1, 2, ... while it gives up for want of time. Raises StudyError where it does so too often."""
    first = time.monotonic()
    for attempt in range(1, _ATTEMPTS + 1):
        began = time.monotonic()
        try:
            start(attempt)
            break
        except Exception as error:  # of a busy machine a bare one
            took, in_all = (time.monotonic() - since for since in (began, first))
            if not was_slow(error, took):
                raise StudyError(f"Ray does not start on this machine: {first_line(error)}") from error
            if attempt == _ATTEMPTS or in_all > _PATIENCE_S:
                raise StudyError(
                    f"Ray has not started on this machine in {attempt} attempts, {in_all:.0f} s: {first_line(error)}. The "
                    "machine may be too busy, or short of memory: end what keeps it so, and go on with the same command"
                ) from error
            shut_down()
            words = f"Ray has not started in {took:.0f} s ({first_line(error)}); this machine is slow, so it is tried again"
            say(console, words, "yellow")


def was_slow(error: Exception, took_s: float) -> bool:
    """Whether Ray gave up waiting, rather than was refused something: it says so, or it took as long."""
    return took_s > _SLOW_S or type(error) is Exception or "timed out" in str(error).lower() or "timeout" in str(error).lower()


@contextmanager
def patiently() -> Iterator[None]:
    """Has Ray wait longer for its head, and for the workers that register, than it does, unless the environment says how long."""
    longer = {name: limit for name, limit in _WAITS.items() if name not in os.environ}
    os.environ.update(longer)
    try:
        yield
    finally:
        for name in longer:
            del os.environ[name]


def shut_down() -> None:
    """Shuts Ray down, and leaves none of its garbage behind.

    A handle that another thread, such as MLflow's mirror, happens to collect while Ray shuts down asks for what is gone, and for
    that Ray ends the whole process, without a word.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        gc.collect()
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


def code_for_nodes(study: StudyConfig) -> UserCode | None:
    """Gives what the study imports from the current folder; None where the nodes have it, as those of Ray's jobs do."""
    in_a_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return None if study.resources.address == LOCAL or in_a_job else user_code(study, Path.cwd())


@contextmanager
def joined(study: StudyConfig, console: Console, *, verbose: bool = False) -> Iterator[None]:
    """Joins the cluster that a study names, and checks that it can run the study, before anything is made for it.

    A Ray on this machine is not started yet. Raises StudyError where the cluster cannot.
    """
    if study.resources.address == LOCAL:
        yield
        return
    if code := code_for_nodes(study):
        say(console, str(code))
    with ray_running(study, console, verbose=verbose):
        at_once, nodes = slots(study), nodes_for_trials(study)
        with question(study, StudyFolder.of(study).root) as asked:
            require_ready(nodes, asked)
        say(console, f"Ray has {len(nodes)} nodes for trials ({', '.join(sorted(nodes.values()))}): {at_once} trials at once")
        yield


def slots(study: StudyConfig) -> int:
    """Tells how many trials the nodes run at once, each whole on one node. Raises StudyError if they can run none."""
    wanted = study.resources
    count = sum(_fitting(study, node) for node in _alive())
    if count == 0:
        there = [f"{n['NodeName']} {n['Resources'].get('CPU', 0):g} and {n['Resources'].get('GPU', 0):g}" for n in _alive()]
        custom = "".join(f", {amount:g} {name}" for name, amount in wanted.custom_per_trial.items())
        raise StudyError(
            f"a trial wants {wanted.cpus_per_trial:g} CPU and {wanted.gpus_per_trial:g} GPU{custom} of one node, and no node has "
            f"that (CPU and GPU of each: {'; '.join(there)}); lower resources.cpus_per_trial or resources.gpus_per_trial, or "
            "join a larger cluster (resources.address)"
        )
    return count


def resources_of_trial(study: StudyConfig) -> dict[str, float]:
    """Tells what Ray reserves for a trial, by Ray's names."""
    wanted = study.resources
    return {"cpu": wanted.cpus_per_trial, "gpu": wanted.gpus_per_trial, **wanted.custom_per_trial}


def nodes_for_trials(study: StudyConfig) -> dict[str, str]:
    """The names of the nodes that can run a trial, by Ray's ids of them."""
    return {node["NodeID"]: node["NodeName"] for node in _alive() if _fitting(study, node)}


def this_node() -> str:
    """The name of the node that this process runs on."""
    here = ray.get_runtime_context().get_node_id()
    return next(str(node["NodeName"]) for node in ray.nodes() if node["NodeID"] == here)


def require_ready(nodes: Mapping[str, str], asked: Question) -> None:
    """Checks that nodes have what trials need. Raises StudyError, with the node's name, for the first that lacks something."""
    ask = ray.remote(num_cpus=0, max_retries=0)(answer)
    on_node = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
    answers = {node: ask.options(scheduling_strategy=on_node[node]).remote(asked, node) for node in nodes}
    for node, coming in answers.items():
        name = nodes[node]
        try:
            lacks = ray.get(coming, timeout=_ANSWER_S)
        except GetTimeoutError as error:
            raise StudyError(f"node {name} has not answered for {_ANSWER_S:g} s; look at its logs, or end it") from error
        except (RayError, ImportError) as error:
            raise StudyError(f"node {name} cannot run kd_hpo ({first_line(error)}); install what the driver has") from error
        if lacks:
            raise StudyError(f"node {name} {lacks}")
        if not _soon(partial(asked.answered, node)):
            raise StudyError(
                f"what node {name} writes to {asked.folder.parent} is not seen here within {_SEEN_S:g} s; put the runs folder on "
                "a path that every node shares: --set runs=/SHARED/PATH"
            )


def _fitting(study: StudyConfig, node: Mapping[str, Any]) -> int:
    names = {"cpu": "CPU", "gpu": "GPU"}
    wanted = {names.get(name, name): amount for name, amount in resources_of_trial(study).items() if amount}
    return int(min(node["Resources"].get(name, 0) / amount for name, amount in wanted.items()))


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _soon(seen: Callable[[], bool]) -> bool:
    until = time.monotonic() + _SEEN_S
    while not seen():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def first_line(error: Exception | str) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
