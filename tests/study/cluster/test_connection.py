"""How many trials the nodes of a cluster run at once, and which of them."""

import gc
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kd_hpo.errors import StudyError
from kd_hpo.study.cluster.connection import nodes_for_trials, patiently, resources_of_trial, shut_down, slots, start_here
from tests.conftest import digits_study


def node(name: str, *, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": f"id-{name}", "NodeName": name, "Alive": alive, "Resources": resources}


NODES = [
    node("head", memory=1e9),
    node("big", CPU=8, GPU=2, fast=4),
    node("small", CPU=3),
    node("lost", alive=False, CPU=64, GPU=8, fast=8),
]


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.nodes", lambda: NODES)


@pytest.mark.parametrize(("resources", "count", "names"), [
    ({}, 11, ["big", "small"]),
    ({"cpus_per_trial": 2}, 5, ["big", "small"]),
    ({"cpus_per_trial": 0.5, "gpus_per_trial": 0.25}, 8, ["big"]),
    ({"custom_per_trial": {"fast": 2}}, 2, ["big"]),
])  # fmt: skip
def test_a_trial_has_all_that_it_wants_on_one_node(
    tmp_path: Path, resources: dict[str, object], count: int, names: list[str]
) -> None:
    study = digits_study(tmp_path, resources=resources)
    assert slots(study) == count
    assert nodes_for_trials(study) == {f"id-{name}": name for name in names}


def test_ray_reserves_custom_resources_by_their_names(tmp_path: Path) -> None:
    study = digits_study(tmp_path, resources={"cpus_per_trial": 2, "custom_per_trial": {"fast": 0.5}})
    assert resources_of_trial(study) == {"cpu": 2, "gpu": 0, "fast": 0.5}


def test_trial_that_fits_on_no_node_is_told(tmp_path: Path) -> None:
    """The two nodes together would have 11 CPUs."""
    with pytest.raises(StudyError) as told:
        slots(digits_study(tmp_path, resources={"cpus_per_trial": 9, "custom_per_trial": {"fast": 1}}))
    assert str(told.value) == (
        "a trial wants 9 CPU and 0 GPU, 1 fast of one node, and no node has that (CPU and GPU of each: head 0 and 0; "
        "big 8 and 2; small 3 and 0); lower resources.cpus_per_trial or resources.gpus_per_trial, or join a larger cluster "
        "(resources.address)"
    )


def test_nothing_of_ray_is_left_to_be_collected_while_it_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle that another thread collects meanwhile would end the process."""
    collected, seen = list[str](), list[object]()

    class Handle:
        def __init__(self) -> None:
            self.itself = self  # a cycle, as those of Ray's are in

        def __del__(self) -> None:
            collected.append("before" if not seen else "too late")

    def shutdown() -> None:
        seen.append(gc.isenabled())

    monkeypatch.setattr("ray.shutdown", shutdown)
    gc.disable()
    Handle()
    gc.enable()
    shut_down()
    assert (collected, seen, gc.isenabled()) == (["before"], [False], True)


# starting Ray on this machine


def slow(times: int, error: Exception) -> tuple[list[int], Callable[[int], None]]:
    """Which attempts were made, and a start that fails so often."""
    made = list[int]()

    def start(attempt: int) -> None:
        made.append(attempt)
        if len(made) <= times:
            raise error

    return made, start


TIMED_OUT = Exception("The current node timed out during startup. This could happen because ...")


@pytest.mark.parametrize("error", [TIMED_OUT, RuntimeError("Timed out waiting for file x"), Exception("bare")])
def test_a_machine_on_which_ray_is_slow_is_given_time_and_told_of(error: Exception) -> None:
    (made, start), told = slow(2, error), StringIO()
    start_here(start, Console(file=told, width=500))
    assert made == [1, 2, 3]
    assert told.getvalue().count("this machine is slow, so it is tried again") == 2


def test_what_is_no_matter_of_time_is_told_at_once() -> None:
    made, start = slow(9, OSError("AF_UNIX path length cannot exceed 107 bytes"))
    with pytest.raises(StudyError, match="does not start on this machine: AF_UNIX path"):
        start_here(start, Console(quiet=True))
    assert made == [1]


def test_a_machine_that_stays_slow_is_given_up() -> None:
    made, start = slow(99, TIMED_OUT)
    with pytest.raises(StudyError, match=r"not started on this machine in 8 attempts.*timed out during startup.*too busy"):
        start_here(start, Console(quiet=True))
    assert made == [*range(1, 9)]


def test_ray_waits_longer_than_it_would_where_the_environment_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RAY_gcs_server_port_wait_time_s", "RAY_worker_register_timeout_seconds")
    monkeypatch.setenv(names[0], "7")
    monkeypatch.delenv(names[1], raising=False)
    with patiently():
        assert (os.environ[names[0]], os.environ[names[1]]) == ("7", "600")
    assert names[1] not in os.environ
